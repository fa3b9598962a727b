# make demo, make test: each sets up all it needs. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV = $$(tools/setup.sh)
RUN = $(UV) run --frozen --no-sync
WORKDIR ?= runs
# Threads do not wait awake for long for each other, where another process may have their core (promptintern/cli/app.py).
export GOMP_SPINCOUNT ?= 20000
# Where the environment says otherwise: hundreds of processes import the same modules, and compile each but once.
unexport PYTHONDONTWRITEBYTECODE
# Most of what tests start computes on one thread. The slow files come first, so that all workers end together.
PARALLEL = --dist loadfile --no-loadscope-reorder --numprocesses
# When make is ended, it ends the shells of its recipes, which would leave their children behind: a recipe that starts
# servers is one command, ends with `exec`, or passes signals on.
# These watch the operator by the second, and leave half the machine free. The others run beside them and stand back:
# without that, these have failed.
TIMED = tests/integration/operator
BESIDE = $(MAKE) --no-print-directory --jobs 2 --keep-going
# One job is disturbed while another trains in two workers: two at a time, and no more, are sooner done.
E2E = $(addprefix tests/e2e/test_,quickstart.py faults.py two_workers.py)
E2E_MORE = $(addprefix tests/e2e/test_,lifecycle.py gpus.py upgrade.py kueue.py)

.PHONY: help setup demo test timed untimed unit integration operator e2e e2e-more e2e-faults prerequisites gpu cluster-up cluster-down kind-up kind-down \
	kill check format generate snapshots quality bench preprocess clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 16

setup: ## Install uv and the locked environment
	@tools/setup.sh >/dev/null

demo: ## Internalize the sample prompt twice (few rows, many rows) and print both verdicts
	@$(RUN) promptintern run examples/few-rows.yaml --workdir $(WORKDIR)
	@$(RUN) promptintern run examples/quickstart.yaml --workdir $(WORKDIR)

test: prerequisites ## Unit and integration tests, then the whole product on a real Kubernetes
	@$(BESIDE) timed untimed
	@if $(RUN) python -m tests.cluster check; then exec $(MAKE) --no-print-directory e2e; else exec $(RUN) pytest $(E2E); fi

timed:
	@log=$$(mktemp); $(RUN) pytest $(TIMED) $(PARALLEL) 2 >$$log 2>&1 & \
		trap "kill $$!" HUP INT TERM; wait $$! && code=0 || code=$$?; cat $$log; rm $$log; exit $$code

untimed:
	@nice -n 15 $(RUN) pytest $(or $(UNTIMED),tests/integration tests/unit) $(PARALLEL) 3 --ignore $(TIMED)

unit: ## Unit tests: no network, under a minute
	@$(RUN) pytest tests/unit $(PARALLEL) 2

integration: prerequisites ## Integration tests: a real S3 server, a real browser, killed processes
	@$(BESIDE) timed untimed UNTIMED=tests/integration

operator: prerequisites ## The operator against a real API server with a fake KubeRay: restarts, replicas, silent watches
	@$(RUN) pytest $(TIMED) $(PARALLEL) 2

e2e: ## The whole product on a real Kubernetes: images, chart, jobs in Ray clusters; nothing is skipped
	@$(RUN) python -m tests.cluster build
	@PROMPTINTERN_REQUIRE_CLUSTER=1 $(RUN) pytest $(E2E)

e2e-more: ## What users and platform teams do on a real Kubernetes: suspend, delete, mend; GPUs, Kueue, helm upgrade
	@$(RUN) python -m tests.cluster build
	@PROMPTINTERN_REQUIRE_CLUSTER=1 $(RUN) pytest $(E2E_MORE) -v

e2e-faults: ## One fault after another on running jobs: pods, node, API server, S3, KubeRay (an hour or more)
	@$(RUN) python -m tests.cluster build
	@PROMPTINTERN_REQUIRE_CLUSTER=1 PROMPTINTERN_FAULTS=all $(RUN) pytest tests/e2e/test_faults.py tests/e2e/test_memory.py -v

cluster-up: ## Start a Kubernetes with KubeRay and an S3 server on this machine (Linux, root), or find yours
	@$(RUN) python -m tests.cluster up

cluster-down: ## End it, and leave nothing
	@$(RUN) python -m tests.cluster down

kind-up: ## With Docker and kind: a cluster with KubeRay, S3, the operator and a first job
	@tools/kind.sh up

kind-down: ## Remove that cluster
	@tools/kind.sh down

prerequisites:
	@tools/browser.sh
	@$(RUN) python -m tests.cluster.s3
	@$(RUN) python -m tests.cluster build --tier api || echo "tests that need an API server will say that they did not run"

gpu: ## Tests that need a CUDA GPU: kernels against attention written out, gradients, the same bits each time
	@$(RUN) pytest tests/gpu

kill: ## Kill a run at 20 random moments and compare the adapters, bit for bit
	@PROMPTINTERN_KILL_POINTS=20 $(RUN) pytest tests/integration/run/test_kill.py -v

# No machine without a GPU runs the tests for one; that they fit the rest is told by their types.
check: ## Quality gates: format, lint, types, layers, freshness of generated files
	@uv=$(UV); run="$$uv run --frozen --no-sync"; \
	$$run ruff format --check . && $$run ruff check . && $$run mypy && $$run mypy --follow-imports silent -p tests.gpu && $$run lint-imports && $$run promptintern-crd --check \
		&& $$run python -m tests.cluster.lint

format: ## Format the code and fix what the linter can
	@uv=$(UV); $$uv run --frozen --no-sync ruff format . && $$uv run --frozen --no-sync ruff check --fix .

generate: ## Write the CRD, docs/api.md and the sample jobs again
	@$(RUN) promptintern-crd --write
	@$(RUN) python -m promptintern.sample.job --world 1 --rows 128 > examples/quickstart.yaml
	@$(RUN) python -m promptintern.sample.job --world 1 --rows 16 --name few-rows > examples/few-rows.yaml

snapshots: ## Renew the chart's rendered snapshots and its table of values
	@PROMPTINTERN_RENEW_SNAPSHOTS=1 $(RUN) pytest tests/unit/chart -q

quality: ## Benchmark: QueryOnly against Direct over numbers of rows (hours on a laptop)
	@$(RUN) python benchmarks/quality.py

bench: setup ## Benchmark: training speed against HF Trainer and TRL, written to docs/performance.md (DATA=rows.jsonl for your own rows)
	@$(RUN) --with trl==1.16.0 --with matplotlib==3.10.9 python -m benchmarks.training $(if $(DATA),--data $(DATA))

preprocess: ## Benchmark: cost of preparing a row at 10^3, 10^4, 10^5 rows
	@$(RUN) python benchmarks/preprocess.py

clean: ## Remove caches and local runs
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis runs promptintern-runs
