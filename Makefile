# The same words on a laptop and in CI. `make` alone lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup build check test golden demo clean

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/porter

# Tests find these programs by these variables.
export CFN_LINT ?= $(CACHE)/venv-tools/bin/cfn-lint
export MOTO_SERVER ?= $(CACHE)/venv-moto/bin/moto_server

# Simulated hosts have namespaces and file systems of their own, so whoever is not root runs the built programs through
# sudo; cargo itself always runs as the caller.
ifneq ($(shell id -u),0)
AS_ROOT := sudo -E env "PATH=$(PATH)" "HOME=$(HOME)"
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr a-z- A-Z_)
export CARGO_TARGET_$(TRIPLE)_RUNNER := sudo -E env PATH=$(PATH) HOME=$(HOME)
endif

# Where cargo puts programs: the workspace always names its target, so the triple is part of the path.
BIN = $(shell cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$(shell rustc -vV | sed -n 's/^host: //p')/debug

## help: list these words
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)
	@echo
	@echo 'make demo DEMO="--seconds 60 --keep": flags for the demo; `make demo DEMO=--help` lists them'

## setup: install what is missing (apt, through sudo when not root) and start the container engine
setup:
	@scripts/setup

# One build for tests, hosts and demo: the dev profile, in which Cargo.toml optimises the few crates that hash, compress
# and copy. A release build would cost minutes and measure nothing else: a swap waits for containers and connections.
## build: all programs
build: setup
	cargo build --workspace --bins

## check: formatting and lints
check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# The build comes first, since tests of one package run the programs of others; of all targets, so that it builds what
# the tests use, and nothing twice. The last thing that is printed is cargo's own results. No example in the documentation
# is code to be run, so doc tests are left out.
## test: check, then every test, those with containers, proxy and AWS endpoint included
test: check
	cargo build --workspace --all-targets
	cargo test --workspace --no-fail-fast --lib --bins --tests

## golden: write the golden files anew, and show what changed in them
golden: build
	INSTA_UPDATE=always INSTA_FORCE_PASS=1 cargo test --workspace --no-fail-fast
	git --no-pager diff --stat -- '*.snap' tests/golden

## demo: hot-swap the example service under load on three simulated hosts, and print the receipt
demo: build
	$(AS_ROOT) "$(BIN)/demo" $(DEMO)

## clean: take the demo's cloud down, remove what the demo and cargo left
clean:
	@if [ -x "$(BIN)/porter" ]; then $(AS_ROOT) env PORTER_LOCAL_NAME=demo "$(BIN)/porter" local down; fi
	$(AS_ROOT) rm -rf target/demo
	cargo clean
