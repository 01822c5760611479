# ward: hardened images for servers that hold patients' data. `make help` lists the targets.

IMAGE   ?= debian-12
PROFILE ?= hipaa
OUT     ?= out/$(IMAGE)
RUN     ?= .
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO      ?= go
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -buildid= -X main.version=$(VERSION)'

# mke2fs, sgdisk and the like live in sbin, which an ordinary user's PATH may lack.
export PATH := $(PATH):/usr/sbin:/sbin

# What a build and its tests need, as thing:package. A thing with a slash is a file, else a program.
TOOLS := mmdebstrap:mmdebstrap qemu-img:qemu-utils mke2fs:e2fsprogs mkfs.vfat:dosfstools mcopy:mtools unshare:util-linux \
	newuidmap:uidmap tar:tar debugfs:e2fsprogs syslinux:syslinux /usr/lib/syslinux/mbr/gptmbr.bin:syslinux-common cryptsetup:cryptsetup-bin /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
TEST_TOOLS := minisign:minisign /usr/lib/ipxe/qemu/efi-virtio.rom:ipxe-qemu qemu-system-x86_64:qemu-system-x86 /usr/share/OVMF/OVMF_CODE_4M.fd:ovmf sgdisk:gdisk sfdisk:fdisk objcopy:binutils swtpm:swtpm sbverify:sbsigntool cert-to-efi-sig-list:efitools softhsm2-util:softhsm2 /usr/lib/x86_64-linux-gnu/engines-3/libpkcs11.so:libengine-pkcs11-openssl \
	/usr/libexec/tangd:tang clevis-luks-bind:clevis-luks swtpm_setup:swtpm-tools ssh-keygen:openssh-client zstd:zstd cpio:cpio bsdtar:libarchive-tools systemd-analyze:systemd ip:iproute2 \
	sshd:openssh-server restic:restic rsyslogd:rsyslog /usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_ossl.so:rsyslog-openssl /usr/lib/x86_64-linux-gnu/rsyslog/imrelp.so:rsyslog-relp \
	dnf:dnf rpmbuild:rpm createrepo_c:createrepo-c gpg:gpg gpg-agent:gpg-agent gpgconf:gpgconf man:man-db /usr/lib/systemd/boot/efi/linuxx64.efi.stub:systemd-boot-efi

# What the tests of make qemu need beside: the browser that opens the reports.
QEMU_TOOLS := chromium:chromium

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20
	@echo
	@echo 'variables: IMAGE=$(IMAGE) PROFILE=$(PROFILE) OUT=$(OUT) RUN=$(RUN) (a pattern of tests)'

.PHONY: build
build: ## build ward, wardctl and both ward-inits into .bin
	@mkdir -p .bin
	$(GOBUILD) -o .bin/ ./builder/cmd/ward
	$(GOBUILD) -tags nodocs -o .bin/wardctl ./firstboot/cmd/wardctl
	$(GOBUILD) -o .bin/ward-init ./initramfs/cmd/init
	$(GOBUILD) -tags netkeys -o .bin/ward-init-net ./initramfs/cmd/init
	$(GOBUILD) -o .bin/ward-netboot ./initramfs/cmd/netboot

.PHONY: build-arm64
build-arm64: ## build what is in images for arm64 into .bin/arm64
	@mkdir -p .bin/arm64
	GOARCH=arm64 $(GOBUILD) -tags nodocs -o .bin/arm64/wardctl ./firstboot/cmd/wardctl
	GOARCH=arm64 $(GOBUILD) -o .bin/arm64/ward-init ./initramfs/cmd/init
	GOARCH=arm64 $(GOBUILD) -tags netkeys -o .bin/arm64/ward-init-net ./initramfs/cmd/init

# What our programs may weigh, as file:MiB. wardctl is in every image, init in every initramfs and in memory.
SIZES := ward:30 wardctl:15 ward-init:5 ward-init-net:10 ward-netboot:10

.PHONY: sizes
sizes: build ## check that no program weighs more than it may
	@for s in $(SIZES); do f=.bin/$${s%:*}; n=$$(stat -c %s $$f); test $$n -lt $$(($${s#*:} << 20)) || \
		{ echo "make sizes: $$f has $$n bytes, more than $${s#*:} MiB; go version -m $$f lists what it links"; exit 1; }; done

.PHONY: tools
tools: ## install what building an image and testing it need, where apt is
	@.ci/tools $(TOOLS) $(TEST_TOOLS)

.PHONY: image
image: tools build ## bake IMAGE with PROFILE into OUT
	.bin/ward build $(IMAGE) --profile $(PROFILE) -o $(OUT)

.PHONY: check
check: ## format, vet and unit tests
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'make check: run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(GO) test $$($(GO) list ./... | grep -v /qemu-tests)

# What make test runs of the end-to-end tests: the main path, and what must not be destroyed. The tampers, the power
# cuts, the idle sessions and the rebuilds take longer than a change should wait: make qemu runs all.
CORE := ^Test(EndToEnd|NoKey|WrongKey|LostMachines|ChangedImage|TamperCoversEveryControl|BackupJob)$$

.PHONY: test
test: image sizes ## unit tests, then the main end-to-end tests in QEMU; a skip is a failure
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'make test: run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	QEMU_TESTS=require $(GO) test -timeout 30m $$($(GO) list ./... | grep -v /qemu-tests)
	QEMU_TESTS=require WARD_IMAGE_DIR=$(abspath out/debian-12) $(GO) test -count=1 -p 1 -timeout 40m -run '$(CORE)' ./qemu-tests
	QEMU_TESTS=require WARD_IMAGE_DIR=$(abspath out/debian-12) $(GO) test -count=1 -p 1 -timeout 40m ./qemu-tests/initramfs
	@$(MAKE) --no-print-directory fuzz FUZZ=initramfs T=2s

.PHONY: qemu
qemu: image ## end-to-end tests in QEMU whose names match RUN
	@.ci/tools $(QEMU_TOOLS)
	QEMU_TESTS=require WARD_IMAGE_DIR=$(abspath $(OUT)) $(GO) test -count=1 -p 1 -timeout 150m -v -run '$(RUN)' ./qemu-tests/...

.PHONY: test-real
test-real: tools build ## build IMAGE from a real MIRROR (and its KEYRING) and grade it in QEMU
	@test -n '$(MIRROR)' || { echo 'make test-real: say IMAGE=ubuntu-24.04 MIRROR=https://mirror.example.org/ubuntu'; exit 1; }
	QEMU_TESTS=require WARD_REAL_IMAGE=$(IMAGE) WARD_REAL_MIRROR=$(MIRROR) WARD_REAL_KEYRING=$(and $(KEYRING),$(abspath $(KEYRING))) \
		$(GO) test -count=1 -timeout 60m -v -run '^TestRealMirror$$' ./qemu-tests

.PHONY: qemu-power
qemu-power: image ## cut the power of CUTS first boots (30) at random instants
	QEMU_TESTS=require WARD_IMAGE_DIR=$(abspath $(OUT)) WARD_POWER_CUTS=$(or $(CUTS),30) $(GO) test -count=1 -timeout 12h -v -run PowerCut ./qemu-tests

# What baking for another processor and a machine of it need.
NIGHTLY_TOOLS := /usr/bin/qemu-aarch64-static:qemu-user-static arch-test:arch-test qemu-system-aarch64:qemu-system-arm /usr/share/AAVMF/AAVMF_CODE.fd:qemu-efi-aarch64

.PHONY: nightly
nightly: tools build build-arm64 ## what takes too long for a change: an image for arm64 is baked and booted in QEMU
	@.ci/tools $(NIGHTLY_TOOLS)
	QEMU_TESTS=require $(GO) test -tags nightly -count=1 -p 1 -timeout 180m -v -run '^TestArm64$$' ./qemu-tests/arm64

.PHONY: docs
docs: build ## write manual pages and shell completions of both commands into .bin/share
	@mkdir -p .bin/share/man/man1 .bin/share/man/man8 .bin/share/completions
	.bin/ward man .bin/share/man/man1
	$(GO) run ./firstboot/cmd/wardctl man .bin/share/man/man8
	@for p in ward wardctl; do for s in bash zsh fish; do .bin/$$p completion $$s > .bin/share/completions/$$p.$$s || exit 1; done; done

.PHONY: bench
bench: tools build ## time builds beside mmdebstrap and mkosi, and boots beside plain Debian: RUNS times (3), what is long LONG times (1)
	$(GO) run ./qemu-tests/bench/build -image $(IMAGE) -runs $(or $(RUNS),3) -long $(or $(LONG),1) -parts $(or $(PARTS),ward,mkosi,boot)

.PHONY: bench-initramfs
bench-initramfs: image ## boot ward's initramfs beside initramfs-tools' and dracut's: time, size, memory
	@.ci/tools busybox:busybox-static
	$(GO) run ./qemu-tests/bench/initramfs -runs 5 $(if $(WORK),-work $(WORK))

.PHONY: fuzz
fuzz: ## fuzz every target below FUZZ (all) for T (10s)
	@for p in $$(grep -rl '^func Fuzz' --include='*_test.go' $(or $(FUZZ),.) | xargs -n1 dirname | sed -E 's,^(\./)?,./,' | sort -u); do \
		for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9]+' $$p/*_test.go | cut -c6-); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(T),10s) -fuzzminimizetime 5x $$p || exit 1; \
		done; done

.PHONY: golden
golden: ## write the golden files anew; read the difference before you commit it
	$(GO) test $$(grep -rlE 'flag.Bool\("update"' --include='*_test.go' . | xargs -n1 dirname | sort -u) -update

.PHONY: clean
clean: ## remove what was built; the cache of packages stays
	rm -rf out .bin
