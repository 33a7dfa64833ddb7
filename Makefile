# Verger. "make help" lists the targets; all of them work from a fresh clone on
# Debian with Go, as root.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PREFIX  ?= /usr/local
TOOL    := go tool -modfile=tools/go.mod
ASSETS  := cmd/gdn/assets

# What Debian's base lacks: compilers for runc (glibc, static) and gdn-init
# (musl), and the programs that gdn and its tests start.
PACKAGES := gcc libc6-dev musl-tools libseccomp-dev pkg-config busybox-static \
            iptables nftables iproute2 crun ca-certificates

# Packages without the kernel in them, which are cheap to run under -race.
PURE := $(shell go list -f '{{if .TestGoFiles}}{{.ImportPath}}{{else if .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... 2>/dev/null | \
          grep -E '/(gardener|properties|sysinfo|kawasaki/(dns|subnets|firewall)|rundmc/(bundle|replay|users)|volplugin/ocilayout|internal/(atomicfile|handle|rootfs))$$')

.PHONY: help deps build gdn demo test check bench clean install

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install the Debian packages that are missing
	@missing=; for p in $(PACKAGES); do \
	  [[ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null || true)" == installed ]] || missing+=" $$p"; \
	done; \
	if [[ -n "$$missing" ]]; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; \
	fi

build: deps bin/runc gdn ## build bin/gdn and the runc it starts

gdn: $(ASSETS)/gdn-init $(ASSETS)/rootfs.tar
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/gdn ./cmd/gdn

bin/runc: tools/go.mod tools/go.sum | deps
	CGO_ENABLED=1 go build -modfile=tools/go.mod -tags 'seccomp netgo osusergo' -trimpath \
	  -ldflags '-s -w -extldflags -static' -o $@ github.com/opencontainers/runc

$(ASSETS)/gdn-init: cmd/gdn-init/init.c | deps
	musl-gcc -static -Os -s -Wall -Wextra -Werror -o $@ $<

$(ASSETS)/rootfs.tar: internal/mkrootfs/main.go | deps
	go run ./internal/mkrootfs /bin/busybox $@

demo: build ## run a real process in a real container, and leave nothing behind
	@go run ./internal/demo bin/gdn

test: build check ## everything that CI runs
	@echo '== pure packages, with the race detector'
	go test -race $(PURE)
	@echo '== all packages'
	$(TOOL) ginkgo run -r --keep-going --poll-progress-after=120s --timeout=18m

check: $(ASSETS)/gdn-init $(ASSETS)/rootfs.tar ## formatting, vet, staticcheck, imports, links in docs
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [[ -n "$$unformatted" ]]; then echo "gofmt -w these: $$unformatted"; exit 1; fi
	go vet ./...
	$(TOOL) staticcheck ./...
	go fix -diff ./...
	go test ./internal/archtest

bench: build ## measure, beside the bare runtimes
	go run ./internal/bench

install: build ## put gdn and its runc under PREFIX (/usr/local)
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/lib/verger bin/gdn bin/runc
	install -d $(DESTDIR)$(PREFIX)/bin
	ln -sfn ../lib/verger/gdn $(DESTDIR)$(PREFIX)/bin/gdn

clean: ## remove what build made
	rm -rf bin $(ASSETS)/gdn-init $(ASSETS)/rootfs.tar
