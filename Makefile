# callplane: `make help` says what there is.
#
# Every target first installs what it needs and is not here, and says so (.ci/install).

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench soak simulate chaos e2e build image

# rustup's programs, where a shell has not been told of them yet.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: ## build, then serve a simulated stack and the console on http://127.0.0.1:5059 (PODS=3: by three servers and a Redis)
	@.ci/install build $(if $(filter-out 1,$(PODS)),redis)
	cargo build --locked
	@cargo run --locked --quiet -- demo $(if $(PODS),--pods $(PODS)) $(if $(PORT),--port $(PORT))

test: ## everything that must pass: format, lints, all tests, documentation, dependencies
	@.ci/install build browser redis prometheus pods kubernetes deny
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib
	cargo deny --locked check bans licenses sources
	@[ -n "$$OPENSIPS_BIN" ] || echo "no OPENSIPS_BIN: the tests against a real OpenSIPS did not run"
	@.ci/can-make-node >/dev/null || echo "this machine can't be a node of Kubernetes: the test in pods did not run"
	@echo "all passed"

lint: ## format check, lints and dependencies only
	@.ci/install build deny
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo deny --locked check bans licenses sources

format: ## format the sources
	@.ci/install build
	cargo fmt

bench: ## the measurements of docs/performance.md (release build, minutes)
	@.ci/install build
	cargo bench --locked

soak: ## ten million Echoes and a million holds: is memory flat? (release build, about 4 minutes)
	@.ci/install build
	cargo bench --locked --bench soak -- echoes holds

simulate: ## play SCHEDULES schedules of the simulation with new seeds, on all cores (release build)
	@.ci/install build
	SCHEDULES=$(or $(SCHEDULES),100000) $(if $(FROM),FROM=$(FROM)) cargo test --locked --release --test sim -- --exact schedules_keep_the_promises --nocapture

chaos: ## kills KILLS (1000) of three processes under load, and judges what clients saw (release build, about 40 minutes)
	@.ci/install build redis
	CHAOS_KILLS=$(or $(KILLS),1000) cargo test --locked --release --test chaos -- --nocapture

e2e: ## callplane in pods of a real node of Kubernetes, made of this machine (root; the first time 10 minutes of building it)
	@.ci/install build redis node
	E2E=must cargo test --locked --test e2e -- --nocapture

build: ## the release binary, target/release/callplane
	@.ci/install build
	cargo build --locked --release

image: ## the container image, by buildah, tried in an empty root (BASE=debian: where no registry of images is reached)
	@.ci/install build redis image $(BASE)
	.ci/image
	IMAGE_ARCHIVE=$(CURDIR)/target/image/callplane.tar cargo test --locked --test image -- --nocapture
