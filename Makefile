# The same words on a laptop and in CI. `make` alone lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup build check test fuzz golden conformance bench demo demo-http release swaps growth clean

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
	cargo fmt --manifest-path realtime/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings

# The build comes first, since tests of one package run the programs of others; of all targets, so that it builds what
# the tests use, and nothing twice. The last thing that is printed is cargo's own results. No example in the documentation
# is code to be run, so doc tests are left out.
## test: check, fuzz for a minute each, then every test, those with containers, proxy and AWS endpoint included
test: check
	scripts/fuzz 60
	cargo build --workspace --all-targets
	cargo test --workspace --no-fail-fast --lib --bins --tests

# Two targets at a time, so all five take three hours. FUZZ="600 tokens" is ten minutes of one.
## fuzz: an hour of new input for everything that reads what strangers send to the real-time server
FUZZ ?= 3600
fuzz: setup
	scripts/fuzz $(FUZZ)

## golden: write the golden files anew, and show what changed in them
golden: build
	INSTA_UPDATE=always INSTA_FORCE_PASS=1 cargo test --workspace --no-fail-fast
	git --no-pager diff --stat -- '*.snap' tests/golden

# The longest messages of the suite have 16 MiB. An echo asks for no token, so any key will do.
## conformance: the Autobahn test suite against the real-time server's WebSockets (needs a Python 2.7; 15 minutes)
conformance: build
	REALTIME_SIGNING_KEYS_1_KEY="$$(head -c 32 /dev/urandom | base64)" \
	scripts/conformance ws://127.0.0.1:9035/echo "$(BIN)/realtime" serve --dev-echo \
		--set listen=tcp:127.0.0.1:9035 --set compression=true \
		--set limits.inbound_message=32MiB --set limits.outbound_bytes=64MiB --set data_dir=target/conformance-data

## demo: swap the real-time server there and back under 3,000 WebSockets on three simulated hosts, and print the receipt
demo: build
	$(AS_ROOT) "$(BIN)/demo" $(DEMO)

## demo-http: hot-swap an ordinary service under HTTP requests on three simulated hosts, and print the receipt
demo-http: build
	$(AS_ROOT) "$(BIN)/demo" --http $(DEMO)

# Here it is the servers that are measured, so server and load are built for release. One after the other: together they
# would be built with each other's features, and examples/realtime could not use the same server.
release: setup
	cargo build --release --package realtime --bins
	cargo build --release --package demo --bins

# `make swaps SWAPS="--count 20 --connections 500"`; no cloud and no root.
## swaps: 200 swaps in a row under the same 2,000 WebSockets behind one HAProxy: nothing is noticed, nothing leaks
swaps: release
	"$(dir $(BIN))release/demo" swaps $(SWAPS)

## growth: what a swap costs with 100 to 9,000 WebSockets on a host
growth: release
	"$(dir $(BIN))release/demo" growth $(GROWTH)

## bench: measure the real-time server beside its peers (installed ones; needs a quiet machine, 20 minutes)
bench:
	benches/run

## clean: take the demo's cloud down, remove what the demo and cargo left
clean:
	@if [ -x "$(BIN)/porter" ]; then $(AS_ROOT) env PORTER_LOCAL_NAME=demo "$(BIN)/porter" local down; fi
	$(AS_ROOT) rm -rf target/demo
	cargo clean
