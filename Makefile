# The two commands: `make demo` and `make test`. `make help` lists the rest.

ARGS ?=
# The agent for boxes on somebody's line: no shared library, no unwinding, equal functions folded; of the ciphers' code
# written for each generation of processors only the oldest that has AES, for a handshake a minute. Seeds come from the
# kernel alone: jitter of the CPU beside them took four fifths of a single probe's time. Sources are named without the
# directory in which cargo keeps them.
SMALL_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
SMALL = target/$(SMALL_TARGET)/small/zerkalo-agent
SMALL_FLAGS = -C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no -C link-arg=-Wl,--icf=all \
	-C link-arg=-Wl,-T,$(CURDIR)/agent/small.ld --cfg curve25519_dalek_backend="serial" \
	--remap-path-prefix=$(CARGO_SOURCES)=
CARGO_SOURCES = $(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src/index.crates.io-1949cf8c6b5b557f
SMALL_CFLAGS = -Os -fno-asynchronous-unwind-tables -DMY_ASSEMBLER_IS_TOO_OLD_FOR_AVX
# What a default build does without and the tests cover.
FEATURES = zerkalo-agent/screenshot
# What `make fuzz` runs, and how long each.
TARGETS = $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))
SECS = 60

.PHONY: help demo test lab uplink latency small bench torture fuzz simulate lint advisories

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

demo: ## one collector, 25 agents and simulated carriers on loopback; ARGS="--scenario NAME --once -o json"
	@cargo build --release --bins -p zerkalo-collector -p zerkalo-agent -p zerkalo -p zerkalo-lab 1>&2
	@target/release/zerkalo-demo $(ARGS)

test: ## install what the tests need (Debian, as root; else say what is missing) and run them all
	@tests/prepare
	cargo build --workspace --bins --features $(FEATURES)
	cargo test --workspace --features $(FEATURES)

lab: ## simulated censors in network namespaces (root): every scenario; report in target/lab/confusion.md; ARGS="--only TEXT"
	@tests/prepare
	cargo build --bins -p zerkalo-agent -p zerkalo-lab
	target/debug/zerkalo-netlab $(ARGS)

uplink: ## attacks on the agents' own line, in network namespaces (root), 20 trials each: how long dark, what was lost; ARGS="--only TEXT"
	@tests/prepare
	@cargo build --bins -p zerkalo-collector -p zerkalo-agent -p zerkalo -p zerkalo-lab 1>&2
	@target/debug/zerkalo-netlab --uplink --runs 20 $(ARGS)

latency: ## first dropped packet to webhook, 20 rounds with shipped settings (20 minutes): distribution and parts; ARGS="--hurried"
	@cargo build --release --bins -p zerkalo-collector -p zerkalo-agent -p zerkalo-lab 1>&2
	@target/release/zerkalo-latency $(ARGS)

small: ## the agent as one small static file: target/HOST/small/zerkalo-agent
	AWS_LC_SYS_CFLAGS='$(SMALL_CFLAGS)' AWS_LC_SYS_NO_JITTER_ENTROPY=1 RUSTFLAGS='$(SMALL_FLAGS)' \
		cargo build --profile small --target $(SMALL_TARGET) -p zerkalo-agent
	@RUST_BACKTRACE=1 $(SMALL) probe http://127.0.0.1/ 2>/dev/null; test $$? -eq 2 || \
		{ echo "the small agent does not survive its own errors" >&2; exit 1; }

bench: small ## verify, judge, fold, frames (criterion), ingest over mTLS, 10,000 agents idle and restarted, and what a probe costs (release)
	@tests/prepare bench
	@echo "machine: $$(uname -n), $$(nproc) cores, $$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
	cargo bench -p zerkalo-core
	cargo build --release --bins -p zerkalo-collector -p zerkalo-lab
	target/release/zerkalo-load $(ARGS)
	target/release/zerkalo-load --idle --agents 10000
	target/release/zerkalo-load --restart --agents 10000
	target/release/zerkalo-speed --agent $(SMALL)

torture: ## 1,000 power cuts of each store (root), 10,000 bad networks, 2,000 flipped bits, 2,000 kills, 40 readers, 1,000 agents; four hours
	@tests/prepare
	cargo build --workspace --bins --features $(FEATURES)
	target/debug/zerkalo-torture power spool $(ARGS)
	target/debug/zerkalo-torture power collector $(ARGS)
	target/debug/zerkalo-torture fail spool
	target/debug/zerkalo-torture fail collector
	target/debug/zerkalo-torture network
	target/debug/zerkalo-torture catch-up
	target/debug/zerkalo-torture catch-up --short --records 1000 --pace-millis 1000
	cargo build --release --bins -p zerkalo-collector -p zerkalo-lab
	target/release/zerkalo-load --soak
	ZERKALO_FLIP_SEEDS=2000 cargo test -p zerkalo-agent --features $(FEATURES) --test agent damage:: -- --nocapture
	ZERKALO_FLIP_SEEDS=2000 cargo test -p zerkalo-collector --lib mend:: -- --nocapture
	ZERKALO_MUTATION_SECS=60 cargo test -p zerkalo-decoders -- --nocapture
	ZERKALO_KILL_CYCLES=2000 cargo test -p zerkalo-journeys --test journeys kill:: -- --nocapture

fuzz: ## every reader of foreign bytes, a minute each (nightly Rust; see fuzz/README.md): SECS=600 TARGETS="dns chain"
	@test -x target/tools/bin/cargo-fuzz || cargo install cargo-fuzz --locked --version 0.13.2 --root target/tools --debug
	@cp Cargo.lock fuzz/Cargo.lock
	@set -e; export PATH="$$PWD/target/tools/bin:$$PATH"; for target in $(TARGETS); do \
		echo "=== $$target"; mkdir -p fuzz/corpus/$$target fuzz/regressions/$$target; \
		cargo +nightly fuzz run -s none --target-dir target/fuzz $$target fuzz/corpus/$$target fuzz/regressions/$$target -- \
			-max_total_time=$(SECS) -max_len=16384 -rss_limit_mb=2048 -timeout=20 -print_final_stats=1; \
		cargo +nightly fuzz cmin -s none --target-dir target/fuzz $$target; \
		rmdir --ignore-fail-on-non-empty fuzz/regressions/$$target; \
	done

simulate: ## how soon a block is seen, how seldom nothing is taken for one: 1,000 market-months (release); ARGS="--no-adaptive"
	cargo build --release -p zerkalo
	target/release/zerkalo simulate --runs 1000 --months 1000 $(ARGS)

lint: ## format, clippy, docs, licences, protos: the gate without its tests
	.ci/run format lint docs tree protos

advisories: ## known vulnerabilities; fetches the advisory database, which is no package registry
	cargo deny check advisories
