# callplane: `make help` says what there is.
#
# Every target first installs what it needs and is not here, and says so (.ci/install).

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench build bans

# rustup's programs, where a shell has not been told of them yet.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto

# Crates that must never come in: a second crypto library, a vulnerable one, an abandoned one.
BANNED := aws-lc-rs aws-lc-sys openssl-sys rsa serde_yaml

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: ## build, then serve a simulated stack and the console on http://127.0.0.1:5059
	@.ci/install build
	cargo run --locked --quiet -- demo

test: ## everything that must pass: format, lints, all tests, documentation, banned crates
	@.ci/install build browser
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib
	@$(MAKE) --no-print-directory bans
	@echo "all passed"

lint: ## format check, lints and banned crates only
	@.ci/install build
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@$(MAKE) --no-print-directory bans

format: ## format the sources
	@.ci/install build
	cargo fmt

bench: ## the measurements of docs/performance.md (release build, minutes)
	@.ci/install build
	cargo bench --locked

build: ## the release binary, target/release/callplane
	@.ci/install build
	cargo build --locked --release

bans:
	@crates=$$(cargo tree --locked --target all --edges all --prefix none --format '{p}' | cut -d' ' -f1 | sort -u) || exit 1; \
	for crate in $(BANNED); do \
		if echo "$$crates" | grep -qx "$$crate"; then echo "banned crate in the tree: $$crate" >&2; exit 1; fi; \
	done
	@if command -v cargo-deny >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; \
	else echo "cargo-deny is not installed: deny.toml's licences and sources were not checked"; fi
