# The two commands of the README, and the pieces they are made of.
.PHONY: demo test deps kryoptic tools python provider suite interop-clients conformance lint doc fuzz crash floods bench telemetry-pictures deploy-lint

# Opens a TDF through a throw-away Kasbah. ONCE=1 stops the server afterwards.
demo:
	./tests/bin/install-deps demo
	./tests/bin/demo

# Every tier of the test suite; ends with a table of tiers.
test: deps tools kryoptic python provider suite interop-clients
	./tests/bin/tiers

# What the tests need from the system.
deps:
	./tests/bin/install-deps test

# The test runner.
tools:
	./tests/bin/install-nextest

# The second PKCS#11 module of the tests, cached by its lock file.
kryoptic:
	./tests/bin/build-kryoptic

# The Python client of the tests.
python:
	./tests/python/setup.sh

# The OpenID provider of the tests, cached by its lock file.
provider:
	./tests/oidc-provider/setup.sh

# The official conformance suite of Connect, cached by its go.sum.
suite:
	./tests/conformance/setup.sh

# Runs it: every unary call of Connect, gRPC and gRPC-Web, over HTTP/1.1 and HTTP/2.
conformance: suite
	cargo test --locked -p kasbah-conformance --test it -- --nocapture

# The SDKs of the tests, cached by their lock files.
interop-clients: python provider
	./tests/interop/setup.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

# Checks deploy/, as far as that goes without Docker, a cluster or a running systemd.
deploy-lint:
	./tests/bin/install-deps deploy
	./tests/bin/lint-deploy

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Fuzzes every parser that faces the network, SECONDS each.
fuzz:
	./tests/bin/fuzz $(or $(SECONDS),10)

# Kills the server while it makes keys, KILLS times; prints what was hit.
crash: deps
	cargo build --locked -p kasbah-cli -p kasbah-recorder
	KASBAH_CRASH_KILLS=$(or $(KILLS),200) cargo test --locked -p kasbah-system-tests --test crash \
		a_kill_loses_nothing_and_leaves_nothing -- --nocapture

# Serves a client for FOR seconds, as it is built for operators, while the network is hostile.
floods: deps
	cargo build --locked --release -p kasbah-cli
	KASBAH_BIN=$(CURDIR)/target/release/kasbah KASBAH_FLOOD_SECONDS=$(or $(FOR),600) \
		cargo test --locked -p kasbah-system-tests --test floods -- --nocapture

# Figures for docs/benchmarks.md; needs an otherwise idle machine.
bench: deps kryoptic
	./tests/bin/install-deps bench
	./tests/bin/bench

# The pictures and the trace of docs/telemetry.md: a server under load, watched by a real Prometheus.
telemetry-pictures:
	./tests/bin/install-deps pictures
	./tests/bin/telemetry-pictures
