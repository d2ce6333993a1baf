# Everything that one does with this project. `make help` lists it.

SHELL  := bash
PYTHON ?= python3
GO     ?= go

# Tools that the checks use, built from their modules into .tools.
BUF_VERSION           := v1.75.0
PROTOC_GEN_GO_VERSION := v1.36.12
CONNECT_VERSION       := v1.21.1
# The modules that carry the proto files which ours import.
PROTOVALIDATE         := github.com/bufbuild/protovalidate@v1.2.2
GOOGLEAPIS            := github.com/grpc-ecosystem/grpc-gateway@v1.16.0
# The folder of a module at a version, whether or not go.mod knows it.
module                 = $$($(GO) mod download -C / -json $(1) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
GOLANGCI_VERSION      := v2.15.0
GRPCURL_VERSION       := v1.9.4
NATSCLI_VERSION       := v0.5.1
CYCLONEDX_VERSION     := v1.10.0

# Targets are relative, for make splits paths at spaces; what leaves this folder
# is absolute, and quoted.
TOOLS := .tools
VENV  ?= .venv
HERE  := $(CURDIR)

# What --version prints. A release names its version; without git both are empty,
# and printed as unknown.
VERSION ?= $(shell git describe --tags --always --dirty 2> /dev/null)
COMMIT  ?= $(shell git rev-parse HEAD 2> /dev/null)
LDFLAGS  = -s -w -X main.release=$(VERSION) -X main.commit=$(COMMIT)

# Where the tests find what they run.
export RAY_VENV = $(if $(filter /%,$(VENV)),$(VENV),$(HERE)/$(VENV))
export FUNC_CLI = $(HERE)/$(TOOLS)/func

# Another user's checkout has no version control in go's eyes, and nothing reads
# its stamp.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)

# What would lead Python, pip or cd astray. Where pip finds its packages stays.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV CDPATH BASH_ENV

make_venv = @$(PYTHON) -m venv $(@D) || { echo '$(PYTHON) cannot make $(@D): install its venv and ensurepip (on Debian: apt-get install python3-venv)' >&2; exit 1; }

# install_python: $@ is .made in a Python environment of its own, with what the
# requirements file $< names. pip's options are $(1).
define install_python
$(make_venv)
@echo 'installing $< into $(@D) …'
@set -o pipefail; $(@D)/bin/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes $(1) -r $< \
  | sed -un 's/^ *Downloading \([^ ]*\) (\(.* MB\)).*/  downloading \1, \2/p; s/^Installing collected.*/  unpacking …/p'
@touch $@
endef

# The worker's Python dependencies travel in the binary.
WHEELS := ray/worker/wheels/.fetched

.DEFAULT_GOAL := help
.PHONY: help build image push lambda run test test-go test-python test-python-client python-client release test-ray-249 test-vllm test-manifests test-kubernetes test-kubernetes-manifests soak lint generate release-proto check-generated check-model bench bench-go tools clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(WHEELS) ## Build bin/ray-executor, complete
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ray-executor ./cmd/ray-executor

# The image's name, and what it is made of. Its program has no dev, and so no
# NATS server.
IMAGE  ?= dev.local/ray-executor:dev
ARCHES := amd64 arm64

image: $(WHEELS) ## Build the image IMAGE into dist/image: oci/, amd64.tar, arm64.tar; no Docker engine
	for arch in $(ARCHES); do \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -tags image -trimpath -buildvcs=false -ldflags '$(LDFLAGS) -buildid=' \
	    -o dist/image/bin/$$arch ./cmd/ray-executor || exit 1; \
	done
	$(GO) run -C tools/image . -o "$(HERE)/dist/image" -tag $(IMAGE) $(PUSH) $(foreach arch,$(ARCHES),"$(arch)=$(HERE)/dist/image/bin/$(arch)")

push: ## Build the image and push it, as IMAGE=registry/name:tag, with the login of Docker's configuration
	$(MAKE) image PUSH=-push

# The flags leave out what differs from one machine or folder to the next.
lambda: $(WHEELS) ## Build dist/lambda/{amd64,arm64}/bootstrap.zip, the same bytes every time
	for arch in amd64 arm64; do \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -tags lambda.norpc -trimpath -buildvcs=false -ldflags '-s -w -buildid=' \
	    -o dist/lambda/$$arch/bootstrap ./cmd/lambda && \
	  $(GO) run ./tools/zip dist/lambda/$$arch/bootstrap.zip dist/lambda/$$arch/bootstrap || exit 1; \
	done

run: build $(VENV)/.made ## Run everything on this machine and send one deliberation through it
	@bin/ray-executor dev --venv "$(RAY_VENV)"

# What starts the whole system needs, besides a Ray.
SYSTEM := build $(TOOLS)/nats-server

test: test-python test-manifests test-go ## Test everything, on real Ray and real NATS

# The Python client's environment. Another Python needs another one:
# make test-python-client PYTHON=python3.13 PYTHON_CLIENT=.tools/python-client-3.13
PYTHON_CLIENT ?= $(TOOLS)/python-client

# Clients that the tests call.
CLIENTS := $(PYTHON_CLIENT)/.made $(TOOLS)/clients-venv/.made $(TOOLS)/grpcurl $(TOOLS)/nats $(TOOLS)/knative-sender

# A real Prometheus, for the rules and dashboards.
PROMETHEUS := $(TOOLS)/prometheus $(TOOLS)/promtool

test-go: $(PROMETHEUS) $(SYSTEM) lambda $(VENV)/.made $(TOOLS)/func $(CLIENTS) ## Test the Go side, end to end on real Ray
	$(GO) run ./tools/gotest -timeout 20m $$($(GO) list ./... | grep -v /tests/) -- -timeout 30m -p 1 ./tests/... # one Ray at a time

test-python: test-python-client $(TOOLS)/worker-venv/.made $(TOOLS)/nats-server ## Test, lint and type-check the Ray worker and the Python client
	cd ray/worker && export PATH="$(HERE)/$(TOOLS)/worker-venv/bin:$$PATH" NATS_SERVER="$(HERE)/$(TOOLS)/nats-server" && \
	  ruff check . && ruff format --check . && mypy && python -m pytest -q -rs

test-python-client: $(SYSTEM) $(PYTHON_CLIENT)/.made ## Test, lint and type-check the Python client, on PYTHON
	cd clients/python && export PATH="$(HERE)/$(PYTHON_CLIENT)/bin:$$PATH" && \
	  ruff check . && ruff format --check . && python -m mypy && python -m pytest -q -rs

# The same sources and VERSION give the same bytes.
RELEASE = dist/release/ray-executor_$(VERSION)
release: lambda image python-client $(TOOLS)/cyclonedx-gomod ## Make a release of VERSION in dist/release: programs, image, Lambda packages, wheel, bill of materials, licences, checksums
	@[ -n '$(VERSION)' ] || { echo 'name the release: make release VERSION=v1.2.3' >&2; exit 1; }
	rm -rf dist/release && mkdir -p dist/release
	for arch in $(ARCHES); do \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS) -buildid=' \
	    -o $(RELEASE)_linux_$$arch ./cmd/ray-executor && \
	  cp dist/image/$$arch.tar $(RELEASE)_image_linux_$$arch.tar && \
	  cp dist/lambda/$$arch/bootstrap.zip $(RELEASE)_lambda_linux_$$arch.zip || exit 1; \
	done
	cp LICENSE NOTICE dist/python/*.whl dist/release
	$(TOOLS)/cyclonedx-gomod bin -json -std -licenses -assert-licenses -noserial -notimestamp -version $(VERSION) -output $(RELEASE).cdx.json $(RELEASE)_linux_amd64
	$(GO) run ./tools/sbom $(RELEASE).cdx.json ray/worker/wheels/*.whl
	$(GO) run ./tools/licenses $(foreach arch,$(ARCHES),$(RELEASE)_linux_$(arch) dist/lambda/$(arch)/bootstrap) ray/worker/wheels/*.whl > dist/release/THIRD_PARTY_LICENSES.txt
	cd dist/release && sha256sum * > ../SHA256SUMS && mv ../SHA256SUMS .

# The date is the archive format's first: a wheel's bytes depend on the source alone.
python-client: $(PYTHON_CLIENT)/.made ## Build the Python client's wheel into dist/python, the same bytes every time
	mkdir -p dist/python
	cd clients/python && SOURCE_DATE_EPOCH=315532800 "$(HERE)/$(PYTHON_CLIENT)/bin/python" -m flit_core.wheel --outdir "$(HERE)/dist/python"

test-manifests: ## Test deploy/ and func.yaml against the types and rules of Kubernetes, Knative, KubeRay and func, and the image's making
	cd tests/manifests && $(GO) test -count 1 ./...
	cd tools/image && $(GO) test ./...

test-ray-249: $(SYSTEM) .venv-ray-2.49/.made ## Test end to end on the oldest Ray that is supported
	RAY_VENV="$(HERE)/.venv-ray-2.49" $(GO) test -timeout 15m -count 1 ./tests/e2e/...

# How long, and which schedule of faults.
export SEED
soak: $(SYSTEM) $(VENV)/.made ## Break the system for SOAK (40m), as SEED (1) says, and write docs/reliability.md's table
	SOAK=$(or $(SOAK),40m) $(GO) test -timeout 6h -count 1 -v -run TestTheSystemKeepsItsWord ./tests/faults

test-vllm: $(SYSTEM) $(VENV)/.made ## Test end to end against a real vLLM on the CPU (6 GB to install)
	$(GO) test -timeout 25m -count 1 -tags vllm -v ./tests/vllm/...

test-kubernetes: $(WHEELS) $(TOOLS)/func $(TOOLS)/grpcurl ## Test on a real Kubernetes with Knative and KubeRay, as root on Debian (16 GB of builds)
	tests/kubernetes/run.sh

test-kubernetes-manifests: ## Show every manifest to a real apiserver with Knative's and KubeRay's CRDs and webhooks
	tests/kubernetes/run.sh manifests

lint: $(TOOLS)/golangci-lint $(TOOLS)/buf $(TOOLS)/cfn-lint/.made ## Lint the Go code and the proto files
	$(TOOLS)/golangci-lint run
	$(TOOLS)/cfn-lint/bin/cfn-lint deploy/lambda/template.yaml
	$(TOOLS)/buf lint
	$(TOOLS)/buf format --diff --exit-code --path proto/ray_executor --path proto/fleet
	$(TOOLS)/buf breaking --against proto/released.binpb

generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-connect-go ## Make the Go code, the Python client's messages and the OpenAPI document of the proto files again
	install -D -m 644 -t proto/buf/validate "$(call module,$(PROTOVALIDATE))"/proto/protovalidate/buf/validate/validate.proto
	@for file in annotations http; do \
	  install -D -m 644 -t proto/google/api "$(call module,$(GOOGLEAPIS))"/third_party/googleapis/google/api/$$file.proto; done
	PATH="$(HERE)/$(TOOLS):$$PATH" $(TOOLS)/buf generate

release-proto: $(TOOLS)/buf ## Record the proto files as released, for buf breaking
	$(TOOLS)/buf build --path proto/ray_executor --path proto/fleet --exclude-source-info -o proto/released.binpb

check-generated: generate ## Fail when generated code is stale
	git diff --exit-code -- proto clients/python/ray_executor_client

check-model: $(TOOLS)/tlc/.made ## Explore the model of the journal's protocol, and its mutants
	deliberation/model/check "$(HERE)/$(TOOLS)/tlc/bin/python"

bench: $(SYSTEM) lambda image $(VENV)/.made $(TOOLS)/func ## Measure everything and write docs/benchmarks.md (25 minutes); BENCH=accept,e2e,waiting,stored,cold,fanout prints some
	$(GO) run ./tests/bench -subjects '$(BENCH)'

bench-go: ## Print the figures and allocations of the hot paths
	$(GO) test -run '^$$' -bench . -benchmem ./deliberation ./events ./functions ./gate ./journal

clean: ## Remove what was built, not what was downloaded
	rm -rf bin dist .func .ray-executor

# --- what the targets above need ---

tools: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-connect-go $(TOOLS)/golangci-lint $(TOOLS)/func $(TOOLS)/nats-server ## Build the tools

# A pip of our own: the machine's Python may have none.
$(WHEELS): ray/worker/requirements.txt | $(TOOLS)/pip/.made
	$(TOOLS)/pip/bin/python -m pip download -q --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: -d $(@D) -r $<
	@touch $@

$(TOOLS)/pip/.made:
	$(make_venv)
	@touch $@

$(VENV)/.made: ray/local/requirements/ray.txt
	$(call install_python)

.venv-ray-2.49/.made: ray/local/requirements/ray-2.49.txt
	$(call install_python)

$(TOOLS)/worker-venv/.made: ray/worker/requirements-dev.txt
	$(call install_python)

$(PYTHON_CLIENT)/.made: clients/python/requirements-dev.txt
	$(call install_python)

$(TOOLS)/cfn-lint/.made: tools/cfn-lint/requirements.txt
	$(call install_python)

$(TOOLS)/tlc/.made: tools/tlc/requirements.txt
	$(call install_python,--no-deps)

$(TOOLS)/clients-venv/.made: tests/clients/requirements.txt
	$(call install_python)

$(TOOLS)/buf:
	GOBIN="$(HERE)/$(TOOLS)" $(GO) install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)

$(TOOLS)/protoc-gen-go:
	GOBIN="$(HERE)/$(TOOLS)" $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)

$(TOOLS)/protoc-gen-connect-go:
	GOBIN="$(HERE)/$(TOOLS)" $(GO) install connectrpc.com/connect/cmd/protoc-gen-connect-go@$(CONNECT_VERSION)

$(TOOLS)/golangci-lint:
	GOBIN="$(HERE)/$(TOOLS)" $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

$(TOOLS)/grpcurl:
	GOBIN="$(HERE)/$(TOOLS)" $(GO) install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)

$(TOOLS)/nats:
	GOBIN="$(HERE)/$(TOOLS)" $(GO) install github.com/nats-io/natscli/nats@$(NATSCLI_VERSION)

$(TOOLS)/cyclonedx-gomod:
	GOBIN="$(HERE)/$(TOOLS)" $(GO) install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION)

$(TOOLS)/knative-sender: tests/knative/go.mod tests/knative/go.sum tests/knative/main.go
	$(GO) build -C $(<D) -o "$(HERE)/$@" .

$(TOOLS)/func: tools/func/go.mod
	cd tools/func && $(GO) build -ldflags "-X knative.dev/func/pkg/version.Vers=$$($(GO) list -m -f "{{.Version}}" knative.dev/func)" -o "$(HERE)/$@" knative.dev/func/cmd/func

# Without its service discoveries, which are most of it.
$(TOOLS)/prometheus $(TOOLS)/promtool: tools/prometheus/go.mod
	$(GO) build -C $(<D) -tags remove_all_sd -ldflags '-s -w' -o "$(HERE)/$@" github.com/prometheus/prometheus/cmd/$(@F)

$(TOOLS)/nats-server: go.mod
	$(GO) build -o $@ github.com/nats-io/nats-server/v2
