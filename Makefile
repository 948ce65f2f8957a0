# Everything goes through these targets; `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help

TOOL := go tool -modfile=hack/tools/go.mod
# Longer than a first build of the control plane takes on two cores.
TEST_TIMEOUT := 60m

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: components ## build what is needed, start a control plane and play the story; KEEP=1 leaves it running
	@go run ./test/demo $(if $(KEEP),--keep)

.PHONY: test
# -count=1: what the tests start reads files that the test cache does not know of.
test: components ## all tests, with the race detector; KONG_MANIFESTS names a folder of rendered Kong manifests to run on as well
	go test -race -count=1 -timeout $(TEST_TIMEOUT) ./...

.PHONY: bench
bench: components ## measure what a review costs, against the stock way and against webhooks that do nothing
	go run ./test/bench

.PHONY: components
components: ## build etcd, kube-apiserver, kubectl and helm into the cache, if they are not there
	@go run ./test/cluster/cmd/components etcd kube-apiserver kubectl helm4 >/dev/null

.PHONY: build
build: ## build the webhook into bin/
	CGO_ENABLED=0 go build -trimpath -o bin/webhook ./cmd/webhook

.PHONY: manifests
manifests: ## render config/ from the chart
	HELM=$$(go run ./test/cluster/cmd/components helm4) hack/manifests.sh

.PHONY: verify
verify: ## fail when config/ is not what the chart renders, or go.mod is not tidy
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
		HELM=$$(go run ./test/cluster/cmd/components helm4) hack/manifests.sh "$$dir" && \
		diff -u config/install.yaml "$$dir/install.yaml" && echo "config/ is up to date"
	go mod tidy -diff

.PHONY: lint
lint: ## run the linters
	$(TOOL) golangci-lint run

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt

.PHONY: fuzz
fuzz: ## fuzz the policy parser and the injection, FUZZTIME each (1m)
	go test -run='^$$' -fuzz=FuzzParse -fuzztime=$(or $(FUZZTIME),1m) ./internal/policy
	go test -run='^$$' -fuzz=FuzzDeploymentIdempotent -fuzztime=$(or $(FUZZTIME),1m) ./internal/mutate
