# The commands of the project. `make help` lists them; README.md and CONTRIBUTING.md explain them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

KUBECONFIG_FILE := $(CURDIR)/.cluster/kubeconfig
CLUSTER := tests/e2e/cluster/cluster
NODES ?= 2
PROFILE ?= release
export PROFILE
SECONDS ?= 30
PROFILES ?= MESH-HTTP,MESH-GRPC,GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP

ifneq ($(E2E_CLUSTER),existing)
export KUBECONFIG := $(KUBECONFIG_FILE)
endif
export PATH := $(CURDIR)/target/cluster/bin:$(PATH)

.PHONY: help demo check test lint cluster cluster-down cluster-load images install uninstall e2e e2e-families e2e-previous soak fuzz conformance bench footprint

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## a cluster, Weft and the sample shop, traffic through its routes, and a table of what happened
	examples/shop/demo

check: ## what a change has to pass: rustfmt, clippy, unit, golden and in-memory tests; no root, no network, no cluster
	tests/check

test: ## everything that CI runs; ends with "N passed, N failed"
	tests/all

lint: ## docs-check, rustfmt, clippy, rustdoc, cargo-deny where it is installed, gofmt and vet, with warnings denied
	tests/lint

cluster: ## a Kubernetes cluster of two nodes for tests (NODES=1: faster; FAMILY=dual or ipv6; GATEWAY_API=v1.6.3: older kinds); its kubeconfig is .cluster/kubeconfig
	$(CLUSTER) up --nodes $(NODES)

cluster-down: ## remove the cluster and every trace of it
	$(CLUSTER) down

cluster-load: ## load a docker archive into the cluster's nodes: make cluster-load ARCHIVE=file.tar
	@test -n "$(ARCHIVE)" || { echo "cluster-load needs ARCHIVE=file.tar, a docker archive" >&2; exit 2; }
	$(CLUSTER) load $(ARCHIVE)

images: ## build the images, as docker archives in target/images (PROFILE=dist: those of a release, which take longest)
	images/pack

install: images ## build and load the images, install the chart, wait until ready
	$(CLUSTER) load target/images/weft-*.tar
	images/install

uninstall: ## remove Weft from the cluster
	command -v helm > /dev/null || $(CLUSTER) tools
	helm uninstall weft --namespace weft-system --ignore-not-found --wait
	kubectl delete namespace weft-system --ignore-not-found

e2e: ## the cluster tests, against an installed Weft
	tests/e2e/suite/run

FAMILIES ?= dual ipv6
e2e-families: images ## short lists of the cluster tests and of the official suite on a cluster of each family, FAMILIES="dual ipv6"; makes each cluster anew
	tests/e2e/variants $(FAMILIES)

e2e-previous: images ## the same lists on a cluster with the CRDs of the Gateway API version before the latest; makes it anew
	tests/e2e/variants v1.6.3

soak: export WEFT_SOAK := 1
soak: export WEFT_SERVERS := all
soak: e2e ## the cluster tests, bodies of 1 GiB, a million exchanges, attacks and fuzzing, with everything that is bound by time or size in full: an hour and a half
	source tests/require && require_packages nginx-light haproxy nodejs python3 slowhttptest testssl.sh
	cargo test --locked -p weft-proxy --test large --test differential --test attacks
	fuzz/run --seconds 120

fuzz: ## search for input that breaks a parser, the matcher or the translation; SECONDS=30 for each target
	fuzz/run --seconds $(SECONDS)

conformance: ## the official Gateway API suite, or some of its PROFILES=MESH-HTTP,...; report in target/conformance/report.yaml
	PROFILES=$(PROFILES) tests/e2e/conformance/run

bench: ## Weft, Envoy and haproxy at the same work; results in target/bench/results.json
	bench/run

footprint: ## memory of a sidecar, and how soon a route is obeyed, on the cluster with Weft installed; PROFILE=dist measures the images of a release
	bench/footprint
