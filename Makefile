# `make help` lists the targets. Everything that is installed or built lies below target/, but for the few distribution
# packages that scripts/setup.sh names.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

CARGO_FLAGS ?= --locked
# What is built for: ARCH=arm64 builds that on amd64 too, once scripts/cross.sh has made it possible.
MACHINE := $(patsubst x86_64,amd64,$(patsubst aarch64,arm64,$(shell uname -m)))
ARCH ?= $(MACHINE)
HOST := $(patsubst amd64,x86_64,$(patsubst arm64,aarch64,$(ARCH)))-unknown-linux-gnu
OUT := target/$(HOST)
PROGRAMS := target/release$(if $(filter-out $(MACHINE),$(ARCH)),-$(ARCH))
ifneq ($(ARCH),$(MACHINE))
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER ?= aarch64-linux-gnu-gcc
endif
# PGO=1 compiles `wws` by a profile of its own work: by PGO_PROFILE, or by one that scripts/pgo.sh makes. A profile is of one
# architecture, so what is built for another one has none.
PGO ?=
PGO_PROFILE ?=
by_profile = $(and $(PGO),$(filter $(MACHINE),$(ARCH)))
LINT_TOOLS := target/tools/lint-tools/bin
PREFIX ?= /usr/local

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what building needs from the distribution, and nothing that is there
	@scripts/setup.sh

.PHONY: tools
tools: setup ## unpack the pinned containerd versions and runc below target/tools
	@scripts/tools.sh

.PHONY: interpreters
interpreters: setup ## fetch the pinned interpreters that go into `wws`, below target/interpreters
	@scripts/interpreters.sh

.PHONY: build
build: interpreters ## leave target/release/containerd-shim-wws-v1 and target/release/wws, both static (ARCH=arm64: in target/release-arm64; PGO=1: compiled by a profile)
	@[[ $(ARCH) == $(MACHINE) ]] || scripts/cross.sh $(ARCH)
	$(if $(by_profile),CARGO_FLAGS="$(CARGO_FLAGS)" scripts/pgo.sh $(PGO_PROFILE),cargo build $(CARGO_FLAGS) --target $(HOST) --release -p wws)
	cargo build $(CARGO_FLAGS) --target $(HOST) --profile shim -p containerd-shim-wws-v1
	mkdir -p $(PROGRAMS)
	ln -f $(if $(by_profile),target/pgo,$(OUT))/release/wws $(PROGRAMS)/wws
	ln -f $(OUT)/shim/containerd-shim-wws-v1 $(PROGRAMS)/containerd-shim-wws-v1

.PHONY: install
install: build ## install both programs, completions and manual pages in PREFIX (/usr/local; DESTDIR for packagers), also while containers run
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 target/release/containerd-shim-wws-v1 target/release/wws $(DESTDIR)$(PREFIX)/bin/
	@scripts/share.sh target/release/wws $(DESTDIR)$(PREFIX)/share

.PHONY: uninstall
uninstall: ## remove what `make install` installed, and the compiled code; containers that run keep running
	rm -f $(DESTDIR)$(PREFIX)/bin/containerd-shim-wws-v1 $(DESTDIR)$(PREFIX)/bin/wws
	rm -f $(DESTDIR)$(PREFIX)/share/{bash-completion/completions/wws,zsh/site-functions/_wws,fish/vendor_completions.d/wws.fish}
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/wws.1 $(DESTDIR)$(PREFIX)/share/man/man1/wws-*.1
	rm -rf $(DESTDIR)/var/lib/wws

.PHONY: dist
dist: PGO := 1
dist: build ## pack archives, the one-file shim and a Debian package, for arm64 too where it can be built, images of `wws` and its installer, a list of what is in them (SBOM) and checksums below target/dist (KEY signs them)
	@if [[ $(MACHINE) == amd64 ]] && scripts/cross.sh --check arm64; then $(MAKE) build ARCH=arm64 PGO=; fi
	@scripts/dist.sh

.PHONY: test-dist
test-dist: ## packing twice gives the same bytes, signatures, `make install` and `uninstall` (of what `make build` left; no root, minutes)
	@scripts/test-dist.sh

.PHONY: images
images: setup build ## build the example workers, their images, and those of our programs, below target/images
	@scripts/build-images.sh
	@scripts/program-images.sh

.PHONY: components
components: images ## build, pack and call the example components in JavaScript, Python, C and Go too (minutes, 350 MB of packages)
	@scripts/build-components.sh
	@scripts/build-images.sh
	cargo test $(CARGO_FLAGS) --release -p wws-test --test components -- --include-ignored --test-threads=1

.PHONY: run
run: tools build images ## see the example answer from a container (KEEP=1 leaves it running)
	@scripts/run.sh

.PHONY: stop
stop: ## stop what `make run KEEP=1` left running
	@scripts/run.sh stop

.PHONY: test
test: tools build images ## all tests: units, sockets, kits, and end to end under the real containerd
	@scripts/test.sh

.PHONY: demo-docker
demo-docker: tools build images ## see the example on a private Docker Engine, as the article types it
	@scripts/demo-docker.sh

.PHONY: test-clients
test-clients: tools build images ## every client (ctr, Docker, Compose, crictl, nerdctl) with every scenario; its part of docs/compatibility.md
	@scripts/test-clients.sh

.PHONY: test-conformance
test-conformance: tools build ## critest, containerd's own tests and containerd-stress with our runtime and with runc's: none may fail with ours alone
	@scripts/conformance.sh

.PHONY: test-kubernetes
test-kubernetes: tools build images ## pods of a real Kubernetes (API to kubelet, built from Go modules), in namespaces of their own; its part of docs/compatibility.md
	@scripts/test-kubernetes.sh

.PHONY: test-arm64
test-arm64: images ## the programs for arm64 on an emulated CPU, with pages of 4 and 16 KiB; its part of docs/compatibility.md
	@scripts/test-arm64.sh

.PHONY: test-sight
test-sight: tools build images ## the panel in a headless Chromium (pictures below target/panel), an OpenTelemetry collector (built from Go modules), Prometheus
	@scripts/sight.sh
	WWS_TEST_STORE=$(CURDIR)/target/store cargo test $(CARGO_FLAGS) --release -p wws-test --test sight -- --include-ignored --test-threads=1 --show-output

.PHONY: test-vm
test-vm: build images ## cgroup v2 with systemd, in an emulated guest of Debian packages (SUITE=forky: of the next Debian)
	@scripts/test-vm.sh

.PHONY: test-packages
test-packages: dist images ## the Debian package and the one-file shim on bare Debian 12 and 13: install, run, upgrade, remove
	@scripts/test-packages.sh

.PHONY: release-check
release-check: ## whether this commit can be released: version, clean tree, all gates, clients, systems, figures, archives (PARTS of them; hours)
	@scripts/release-check.sh $(PARTS)

.PHONY: check
check: lint unit-quick ## the quick part of what CI runs, without root: all of `make lint`, and the tests that need no engine

.PHONY: unit-quick
unit-quick:
	cargo test $(CARGO_FLAGS) --release -p containerd-shim-wws-v1 -p wws-bench

.PHONY: lint
lint: fmt links spelling shellcheck layers deny clippy doc ## all that is found without running the programs: the eight targets below

.PHONY: fmt
fmt: ## format, and lines of at most 100 columns
	cargo fmt --all --check
	@scripts/line_length.py
	cargo fmt --manifest-path test/models/Cargo.toml --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

.PHONY: links
links: ## links, anchors and paths of the repository in Markdown
	@scripts/check-links.sh

.PHONY: lint-tools
lint-tools: setup
	@scripts/pip.sh lint-tools scripts/lint-tools.txt

.PHONY: spelling
spelling: lint-tools ## spelling of code and docs (.typos.toml)
	$(LINT_TOOLS)/typos

.PHONY: shellcheck
shellcheck: lint-tools ## the scripts
	git ls-files -co --exclude-standard | xargs grep -lE '^#!.*(bash|/sh)' | xargs $(LINT_TOOLS)/shellcheck

.PHONY: layers
layers: ## imports that run up the layers of scripts/layers.txt
	python3 scripts/layers_test.py --quiet
	python3 scripts/layers.py

.PHONY: deny
deny: lint-tools ## licences, sources, versions of dependencies; advisories where there is a database (deny.toml)
	$(LINT_TOOLS)/cargo-deny check bans licenses sources
	@scripts/advisories.sh

.PHONY: clippy
clippy: interpreters ## the compiler's and clippy's warnings, of tests too
	cargo clippy $(CARGO_FLAGS) --release --workspace --all-targets -- -D warnings
	@# Neither compiled with coverage nor linked: libFuzzer itself is not needed.
	RUSTFLAGS="--cfg fuzzing" CUSTOM_LIBFUZZER_PATH=/nowhere/libfuzzer.a cargo clippy $(CARGO_FLAGS) --manifest-path fuzz/Cargo.toml \
		--target-dir $${CARGO_TARGET_DIR:-target}/fuzz/clippy --target $(HOST) --bins -- -D warnings

.PHONY: doc
doc: interpreters ## the crates' documentation, below target/$(HOST)/doc, without a warning
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --release --workspace --no-deps

.PHONY: fuzz
fuzz: setup ## each fuzz target for 60 s (SECONDS_EACH), built with coverage below target/fuzz; what crashes is left there
	@scripts/fuzz.sh

.PHONY: asan
asan: setup ## tests of the engine and the shim under AddressSanitizer, below target/asan (root for all of the shim's; as long as a first build)
	@scripts/asan.sh

.PHONY: miri
miri: ## what needs no system, under miri: undefined behaviour in it and in the crates it uses (a nightly compiler)
	@scripts/miri.sh

.PHONY: bench
bench: tools build images ## the figures of SPECIFICATION.md beside their peers
	scripts/interpreters.sh all
	scripts/bench-peers.sh
	cargo run $(CARGO_FLAGS) --release -p wws-bench

.PHONY: clean
clean: ## end what was left running, and remove everything built and installed below target/
	@scripts/run.sh stop
	@for suite in trixie forky; do SUITE=$$suite scripts/vm.sh off; done
	rm -rf target
