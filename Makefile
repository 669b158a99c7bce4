# `make up` starts Quire on this machine, `make test` tests everything. `make help` lists the rest.

CARGO ?= cargo
DIR ?= .quire
QUIRE := target/release/quire
# Minor releases of PostgreSQL between which redo changed, which tests want beside the installed one, and others for the oracle.
MINORS := 15.18 15.20
MINORS_ORACLE := $(MINORS) 15.8 15.3 15.0

.DEFAULT_GOAL := help
.PHONY: help install install-tests build up down test minors unit e2e oracle regress postgis fuzz corpus check bench bench-redo torture

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Install what is missing: PostgreSQL 15, a C compiler (Debian)
	@scripts/install-debian.sh

install-tests: install ## Install what only the tests need: extensions (Debian)
	@scripts/install-test-packages.sh rum
	@scripts/install-test-packages.sh plperl || echo "make: the test that needs PL/Perl will be skipped" >&2

build: ## Build the program and the shim
	$(CARGO) build --release --locked -p quire -p quire-shim

up: install build ## Start everything in $(DIR), print the URI
	@$(QUIRE) --dir $(DIR) up --detach

down: ## Stop everything in $(DIR)
	@$(QUIRE) --dir $(DIR) down

test: install install-tests minors check unit e2e ## Run all tests

minors: ## Put minor releases of PostgreSQL aside in target/, without installing them; tests do without those that are not to be had
	@for minor in $(MINORS); do scripts/postgres-minor.sh $$minor >/dev/null || true; done

unit: ## Run the tests that lie beside the code
	@scripts/timed.sh unit $(CARGO) test --locked --workspace --exclude quire-tests

e2e: build ## Run the end-to-end tests against the built program
	@scripts/timed.sh e2e $(CARGO) test --locked -p quire-tests -- --test-threads=2

oracle: install ## Replay PostgreSQL's own regression suite on several minor releases, compare every page; rewrites docs/redo-coverage.md
	programs() { for minor; do scripts/postgres-minor.sh $$minor || true; done | paste -sd:; }; \
	suite=$$(scripts/postgres-source.sh) && QUIRE_PG_SUITE="$$suite" QUIRE_REDO_COVERAGE="$(CURDIR)/docs/redo-coverage.md" \
	QUIRE_PG_MINORS=$$(programs $(MINORS_ORACLE)) \
	$(CARGO) test --release --locked -p quire-redo --test oracle -- --ignored --nocapture regress

regress: install build ## PostgreSQL's regression suite on a Quire: whole cache, small cache, every page dropped as soon as it may be
	suite=$$(scripts/postgres-source.sh) && QUIRE_PG_SUITE="$$suite" \
	$(CARGO) test --locked -p quire-tests --test regression_suite -- --ignored --nocapture --test-threads=1

postgis: install build ## Spatial queries over 100,000 geometries of PostGIS, beside stock PostgreSQL
	scripts/install-test-packages.sh postgis
	$(CARGO) test --locked -p quire-tests --test postgis -- --ignored --nocapture

fuzz: ## Run every fuzz target under libFuzzer, FUZZ_SECONDS each (300), with FUZZ_SANITIZER=address too; finds are in fuzz/artifacts
	CARGO="$(CARGO)" scripts/fuzz.sh $(FUZZ_TARGETS)

corpus: install ## Make the seeds of the fuzz targets anew from a server's WAL: some minutes
	$(CARGO) test --locked -p quire-fuzz --test corpus -- --ignored --nocapture

check: ## Format, lints, documentation, layers, licences, bans and sources; advisories where the network allows
	@scripts/timed.sh "check: format" $(CARGO) fmt --all --check
	@scripts/timed.sh "check: width" scripts/check-width.py
	@scripts/timed.sh "check: layers" scripts/check-layers.sh
	@scripts/timed.sh "check: clippy" $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" scripts/timed.sh "check: doc" $(CARGO) doc --locked --workspace --no-deps
	@scripts/timed.sh "check: cargo-deny is there" scripts/cargo-deny.sh
	deny=$$(scripts/cargo-deny.sh) && scripts/timed.sh "check: deny" $$deny --locked --offline check licenses bans sources && \
	if $$deny --locked fetch db >/dev/null 2>&1; then $$deny --locked check --disable-fetch advisories; \
	else echo "make check: advisories SKIPPED, their list cannot be fetched" >&2; fi

bench: install build ## Measure beside stock PostgreSQL: TPC-B, selects, cold scans and reads; reports in target/bench
	@CARGO="$(CARGO)" scripts/bench.sh

bench-redo: install ## Measure redo: single pages, and the WAL of a pgbench run beside PostgreSQL's crash recovery
	$(CARGO) bench --locked -p quire-redo

torture: install build ## The long forms of the end-to-end tests: about an hour
	QUIRE_LONG=1 $(CARGO) test --locked -p quire-tests -- --test-threads=1 --nocapture
