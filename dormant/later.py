"""Settings that came after runs had been made."""

# Metadata of such a field: a run's description leaves it out at its default, so that older runs keep their names.
LATER = {"later": True}
