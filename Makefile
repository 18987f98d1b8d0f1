# The two commands of the README are `make demo` and `make test`; the rest is for working on
# Portcullis. Times are for two cores with everything built before.
.DEFAULT_GOAL := help
.PHONY: help build demo demo-cluster e2e test test-unit test-gateway test-cluster test-clock race coverage lint lint-docs docs generate bundle images bench bench-operator clean

help: ## Show this list
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## Build the programs (release)
	cargo build --release --locked

demo: ## Show the product on a real MLflow with the real mlflow-mcp (KEEP=1 leaves it running)
	@KEEP='$(KEEP)' bash examples/demo/run.sh

demo-cluster: ## The same on Kubernetes: on kind or minikube if installed, else on a node of its own (KEEP=1 leaves it running)
	@KEEP='$(KEEP)' bash tests/e2e/run.sh demo

test: ## Run every check and test that this machine can run (30 min; the first time most of an hour)
	@bash tests/run.sh

test-unit: ## Unit and offline tests only; T=NAME runs those with NAME in their path (1 min)
	@bash tests/run.sh unit offline

test-gateway: ## Gateway tests only, with real MCP servers and clients; T=NAME as above (6 min)
	@bash tests/run.sh gateway

test-cluster: ## Cluster tests only, on a real API server; T=NAME as above (10 min; the first time 10 more)
	@bash tests/run.sh cluster

test-clock: ## Run the suites again, a year ahead and at the end of a February; T=NAME as above (35 min)
	@bash tests/run.sh clock

race: ## Race three gateways for approvals while they are killed, clocks step and the API server stops answering (RACES=10000, SEED=7; 45 min)
	@PORTCULLIS_RACES='$(or $(RACES),10000)' PORTCULLIS_RACES_AT_ONCE=20 PORTCULLIS_SEED='$(or $(SEED),7)' T=approval_races SHOW=1 bash tests/run.sh cluster

coverage: ## Show how much of each file of the operator the unit tests reach; fails below 85 % (2 min; the first time 10 more)
	@bash tests/coverage.sh

e2e: ## Test the whole product on a one-node cluster with real pods (4 min; needs root on Linux)
	@KEEP='$(KEEP)' bash tests/e2e/run.sh e2e

lint: ## Formatting, clippy and licences only (1 min)
	@bash tests/run.sh lint

lint-docs: ## Spelling of names, comments and pages only (seconds; needs Python)
	@bash tests/run.sh lint-docs

docs: ## Build the documentation as a site with search into target/docs, and check its links (seconds; the first time some minutes)
	@bash tests/docs/site.sh

generate: ## Rewrite the generated files: crds/, pages under docs/, the chart's definitions and tables, fuzz seeds
	UPDATE=1 cargo test --locked --test offline generated
	UPDATE=1 cargo test --locked --test offline chart
	UPDATE=1 cargo test --locked --test offline messages

bundle: ## Render deploy/portcullis.yaml from the chart (needs Helm 3)
	@bash deploy/render.sh > deploy/.portcullis.yaml && mv deploy/.portcullis.yaml deploy/portcullis.yaml \
	  || { rm -f deploy/.portcullis.yaml; exit 1; }

images: ## Build the images with docker, podman or buildah (REGISTRY=… PUSH=1; see deploy/images.sh)
	@bash deploy/images.sh

bench: ## Measure the gateway against a bare proxy on this machine
	@bash benches/run.sh

bench-operator: ## Measure the operator on a control plane of its own
	@bash benches/operator.sh

clean: ## Remove the build's output (not the cache of installed programs)
	cargo clean
