# Everything goes through scripts/; `make` is the table of contents.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench proto clean

help: ## What can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## Environment and install (idempotent)
	@scripts/setup

demo: ## From nothing to a picture: set up, start the platform, draw, show the receipt
	@scripts/demo

test: ## All tests; needs no GPU
	@scripts/test

check: ## The full gate: format, lint, types, import contracts, generated code, tests
	@scripts/check

format: ## Rewrite the code in the project's format
	@scripts/setup --quiet
	@.venv/bin/ruff check --fix . && .venv/bin/ruff format .

bench: ## The benchmarks; results go to bench/results
	@scripts/setup --quiet
	@.venv/bin/python -m bench

proto: ## Regenerate the code beside the .proto files
	@scripts/setup --quiet
	@scripts/generate-proto

clean: ## Forget the environment and the demo's data
	rm -rf .venv .quickthaw quickthaw-output
