# Every target installs what it needs, at the versions of requirements.txt, into ./.venv.
PYTHON ?= python3
BIN := .venv/bin
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)

.PHONY: demo test check stress docs docs-serve networks clean

demo: .venv/demo-installed
	$(BIN)/dormant demo

test: .venv/dev-installed
	$(BIN)/pytest --numprocesses=auto --dist=worksteal

check: .venv/dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

stress: .venv/dev-installed
	$(BIN)/python tests/fuzz_networks.py --programs 200
	$(BIN)/python tests/campaign.py --files 300 --commands 50 --kills 6

docs: .venv/dev-installed
	$(MKDOCS) build

docs-serve: .venv/dev-installed
	$(MKDOCS) serve

networks: .venv/dev-installed
	$(BIN)/python docs/make_networks.py

clean:
	rm -rf .venv

# uv ignores pip's variable PIP_FIND_LINKS, which names a folder of local wheels, such as a CPU build of torch.
.venv/%-installed: pyproject.toml requirements.txt
	$(if $(UV),uv venv --quiet --allow-existing --python $(PYTHON) .venv,$(PYTHON) -m venv .venv)
	$(if $(UV),uv pip install --quiet --python $(BIN)/python $(addprefix --find-links$(space),$(PIP_FIND_LINKS)),$(BIN)/python -m pip install --quiet) \
	  --constraint requirements.txt --editable '.[$(if $(filter demo,$*),cli$(,)images$(,)minatar,$*)]'
	touch $@

, := ,
space := $(subst ,, )
