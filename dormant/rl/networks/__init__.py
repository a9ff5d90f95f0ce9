"""Networks: plain specifications whose parameters are nested dictionaries of arrays."""
