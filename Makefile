# `make demo` and `make test` set up everything that they need. `make help` lists all targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV = $$(tools/setup.sh)
RUN = $(UV) run --frozen --no-sync
WORKDIR ?= runs
KILLS = $(or $(PROMPTINTERN_KILL_POINTS),20)
# Waiting threads spin only briefly, because another process may need their core (see promptintern/cli/libraries.py).
export GOMP_SPINCOUNT ?= 20000
# Hundreds of processes import the same modules, so Python must keep its bytecode even if the environment forbids it.
unexport PYTHONDONTWRITEBYTECODE
# Most processes of tests compute on one thread. Slow files come first, so that all workers end at about the same time.
PARALLEL = --dist loadfile --no-loadscope-reorder --numprocesses
# A terminated make terminates only the shells of its recipes. Hence, a recipe that starts servers is one command, ends
# with `exec`, or passes the signal on.
# The timed tests expect reactions of the operator within seconds, and leave half the machine idle. The other tests run
# beside them with a lower priority, without which timed tests have failed.
TIMED = tests/integration/operator
BESIDE = $(MAKE) --no-print-directory --jobs 2 --keep-going
# One job is disturbed while another one trains with two workers; more jobs at once would take longer.
E2E = $(addprefix tests/e2e/test_,quickstart.py faults.py two_workers.py)
E2E_MORE = $(addprefix tests/e2e/test_,lifecycle.py sandbox.py teacher.py gpus.py upgrade.py kueue.py reach.py)

.PHONY: help setup demo test timed untimed unit integration operator e2e e2e-more e2e-faults chaos serving prerequisites gpu cluster-up cluster-down kind-up kind-down \
	kill fuzz check format generate snapshots quality teaching-cost bench preprocess real clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 16

setup: ## Install uv and the locked environment
	@tools/setup.sh >/dev/null

demo: ## Internalize the sample prompt from queries without answers, and for comparison from 16 answered rows
	@$(RUN) promptintern run examples/few-rows.yaml --workdir $(WORKDIR)
	@$(RUN) promptintern run examples/queries-only.yaml --workdir $(WORKDIR)

test: prerequisites ## Run unit and integration tests, then test the whole product on a real Kubernetes cluster
	@$(BESIDE) timed untimed
	@if $(RUN) python -m tests.cluster check; then exec $(MAKE) --no-print-directory e2e; else exec $(RUN) pytest $(E2E); fi

timed:
	@log=$$(mktemp); (trap - INT; exec $(RUN) pytest $(TIMED) $(PARALLEL) 2 >$$log 2>&1) & \
		trap "kill $$!" TERM; wait $$! && code=0 || code=$$?; cat $$log; rm $$log; exit $$code

untimed:
	@nice -n 15 $(RUN) pytest $(or $(UNTIMED),tests/integration tests/unit) $(PARALLEL) 3 --ignore $(TIMED)

unit: ## Run unit tests: no network, under a minute
	@$(RUN) pytest tests/unit $(PARALLEL) 2

integration: prerequisites ## Run integration tests: a real API server, S3 server and browser, killed processes
	@$(BESIDE) timed untimed UNTIMED=tests/integration

operator: prerequisites ## Test the operator on a real API server with a fake KubeRay: restarts, replicas, silent watches
	@$(RUN) pytest $(TIMED) $(PARALLEL) 2

e2e: ## Test the whole product on a real Kubernetes cluster: images, chart, jobs in Ray clusters; skips nothing
	@$(RUN) python -m tests.cluster build
	@PROMPTINTERN_REQUIRE_CLUSTER=1 $(RUN) pytest $(E2E)

e2e-more: ## Test what users and platform teams do on a real Kubernetes cluster: suspend, delete, correct; GPUs, Kueue, helm upgrade, network policies
	@$(RUN) python -m tests.cluster build
	@PROMPTINTERN_REQUIRE_CLUSTER=1 $(RUN) pytest $(E2E_MORE) -v

e2e-faults: ## Test faults while jobs run: pods, node, API server, S3, KubeRay (an hour or more)
	@$(RUN) python -m tests.cluster build
	@PROMPTINTERN_REQUIRE_CLUSTER=1 PROMPTINTERN_FAULTS=all $(RUN) pytest tests/e2e/test_faults.py tests/e2e/test_memory.py -v

chaos: ## Test 200 random faults over a queue of short jobs (PROMPTINTERN_FAULTS=200; hours; continues where it stopped)
	@$(RUN) python -m tests.cluster build
	@PROMPTINTERN_REQUIRE_CLUSTER=1 $(RUN) python -m tests.e2e.chaos --faults $(or $(PROMPTINTERN_FAULTS),200)

serving: ## Ask an adapter through vLLM, exactly as its card says (Linux on x86-64; downloads about 3 GB)
	@$(RUN) python -m tests.serving.environment
	@$(RUN) pytest tests/serving -v

cluster-up: ## Start a Kubernetes cluster with KubeRay and an S3 server on this machine (Linux, root), or use your cluster
	@$(RUN) python -m tests.cluster up

cluster-down: ## End that cluster and remove everything that it left on this machine
	@$(RUN) python -m tests.cluster down

kind-up: ## Create a cluster with Docker and kind: KubeRay, S3, the operator and a first job
	@tools/kind.sh up

kind-down: ## Delete the cluster of kind-up
	@tools/kind.sh down

prerequisites:
	@tools/browser.sh
	@$(RUN) python -m tests.cluster.s3
	@$(RUN) python -m tests.cluster build --tier api || echo "tests that need an API server will be skipped"

gpu: ## Run tests that need a CUDA GPU: kernels against a reference attention, gradients, reproducible bits
	@$(RUN) pytest tests/gpu

kill: ## Kill runs at random moments (PROMPTINTERN_KILL_POINTS=20) and compare the adapters, bit for bit; continues where it stopped
	@PROMPTINTERN_KILL_POINTS=$(KILLS) $(RUN) pytest tests/integration/run/test_kill.py tests/integration/run/test_teacher.py -v
	@$(RUN) python -m tests.integration.run.lives --kills $(KILLS)

fuzz: prerequisites ## Send hostile specs and statuses to the operator (PROMPTINTERN_FUZZ_CASES=10000); continues where it stopped
	@$(RUN) python -m tests.integration.operator.fuzz --cases $(or $(PROMPTINTERN_FUZZ_CASES),10000)

# A machine without a GPU cannot run the GPU tests, so at least their types are checked here.
check: ## Run quality gates: format, lint, types, layers, freshness of generated files
	@uv=$(UV); run="$$uv run --frozen --no-sync"; \
	$$run ruff format --check . && $$run ruff check . && $$run mypy && $$run mypy --follow-imports silent -p tests.gpu && $$run lint-imports && $$run promptintern-crd --check \
		&& $$run python -m tests.cluster.lint

format: ## Format the code and fix what the linter can
	@uv=$(UV); $$uv run --frozen --no-sync ruff format . && $$uv run --frozen --no-sync ruff check --fix .

generate: ## Write the CRD, docs/api.md and the sample jobs again
	@$(RUN) promptintern-crd --write
	@$(RUN) python -m promptintern.sample.job --world 1 --rows 128 > examples/quickstart.yaml
	@$(RUN) python -m promptintern.sample.job --world 1 --rows 16 --name few-rows > examples/few-rows.yaml
	@$(RUN) python -m promptintern.sample.job --world 1 --queries 1000 --name queries-only > examples/queries-only.yaml

snapshots: ## Write the chart's rendered snapshots and its table of values again
	@PROMPTINTERN_RENEW_SNAPSHOTS=1 $(RUN) pytest tests/unit/chart -q

quality: ## Benchmark: QueryOnly against Direct by number of rows, teachers, curricula, retention (hours on a laptop)
	@$(RUN) python benchmarks/quality.py
	@$(RUN) python benchmarks/teacher_quality.py
	@$(RUN) python benchmarks/curricula.py

teaching-cost: ## Benchmark: the cost of the teaching pass beside an epoch, by length of the template (DATA=rows.jsonl for your own rows)
	@$(RUN) python -m benchmarks.teaching_cost $(if $(DATA),--data $(DATA))

real: setup ## Benchmark: pretrained models on real tasks, written to docs/real.md (hours; continues where it stopped; MODEL=DIR for your own model)
	@$(RUN) --with gguf==0.19.0 --with pip==25.3 python -m benchmarks.real $(if $(MODEL),--model $(MODEL)) $(REAL)

bench: setup ## Benchmark: training speed against HF Trainer and TRL, written to docs/performance.md (DATA=rows.jsonl for your own rows)
	@$(RUN) --with trl==1.16.0 --with matplotlib==3.10.9 python -m benchmarks.training $(if $(DATA),--data $(DATA))

preprocess: ## Benchmark: the cost of preparing a row for 10^3, 10^4 and 10^5 rows
	@$(RUN) python benchmarks/preprocess.py

clean: ## Remove caches and local runs
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis runs promptintern-runs
