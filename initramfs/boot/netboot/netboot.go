// Package netboot installs a machine over the network: it brings the network up,
// fetches a signed manifest by HTTPS from a server of the pinned authority,
// chooses the disk, checks the whole image before the first byte is written,
// writes it, lets the last partition grow to the end of the disk, leaves the
// machine's config where wardctl finds it, and only then makes the disk bootable.
//
// Whatever is not as it must be is refused before the disk is touched, with the
// reason on the console and, as far as it can be reached, in the server's log.
// README.md of the initramfs lists the kernel parameters.
package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"ward/initramfs/boot"
	"ward/initramfs/boot/cmdline"
	"ward/initramfs/boot/disks"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/network"
	"ward/initramfs/boot/modload"
	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// networkTimeout is how long links and DHCP may take: spanning tree holds a
// switch's port back for 30 s and longer.
const networkTimeout = 2 * time.Minute

// install is one installation.
type install struct {
	log     *slog.Logger
	line    cmdline.Line
	pins    netimage.Pins
	server  *server
	net     *network.Network
	disks   *disks.Set
	modules *modload.Loader
}

// Run installs the machine. The caller then reboots it.
func Run() error {
	log, level, err := boot.Early()
	if err != nil {
		return err
	}
	in := &install{log: log}
	if err := in.run(level); err != nil {
		err = fmt.Errorf("netboot: %w", err)
		log.Error(err.Error())
		if in.server != nil {
			in.server.report("refused: " + err.Error())
		}
		return err
	}
	return nil
}

func (in *install) run(level *slog.LevelVar) error {
	ctx := context.Background()
	if err := in.begin(level); err != nil {
		return err
	}
	if err := in.network(ctx); err != nil {
		return err
	}
	m, err := in.server.manifest(ctx, in.pins.PublicKey)
	if err != nil {
		return err
	}
	in.log.Info("the manifest is signed by the pinned key", "image", m.Image, "made", m.Made.Format(time.DateOnly))
	me, known, err := m.Find(in.server.macs, in.server.serial)
	if err != nil {
		return err
	}
	rule, err := in.rule(m, me)
	if err != nil {
		return err
	}
	target, err := in.target(ctx, rule, m.Disk)
	if err != nil {
		return err
	}
	in.log.Info("this disk will be written", "disk", target.Name, "serial", target.Serial, "bytes", target.Size, "rule", rule.String())
	var config []byte
	if known {
		if config, err = in.server.config(ctx, me); err != nil {
			return err
		}
	} else {
		in.log.Warn("the manifest has no config for this machine; firmware, config drive or kernel line must give one", "macs", strings.Join(in.server.macs, ","), "serial", in.server.serial)
	}
	in.server.report("checks the image for " + target.String())
	if err := in.check(ctx, m.Disk); err != nil {
		return err
	}
	in.server.report("writes " + target.String())
	if err := in.write(ctx, m, target, config); err != nil {
		return err
	}
	in.log.Info("installed; the machine reboots", "disk", target.Name, "image", m.Image)
	in.server.report("installed " + m.Image + " on " + target.String())
	return nil
}

// begin reads the kernel line and what is in the initramfs, and starts to look
// for devices.
func (in *install) begin(level *slog.LevelVar) error {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	in.line = cmdline.Parse(string(text))
	if in.line.Has("ward.debug") {
		level.Set(slog.LevelDebug)
	}
	data, err := os.ReadFile(handoff.ConfigPath)
	if err != nil {
		return err
	}
	config, err := handoff.DecodeConfig(data)
	if err != nil {
		return err
	}
	if data, err = os.ReadFile(netimage.PinsPath); err != nil {
		return err
	}
	if in.pins, err = netimage.DecodePins(data); err != nil {
		return err
	}
	if in.modules, err = modload.Running(in.log); err != nil {
		return err
	}
	in.disks = disks.New(in.log)
	events, err := disks.Listen()
	if err != nil {
		return err
	}
	go in.guard("uevents", func() error { return in.disks.Follow(events, in.hotplug) })
	go in.disks.Scan()
	if err := errors.Join(in.modules.LoadAll(config.Modules), in.modules.Coldplug()); err != nil {
		in.log.Warn(err.Error()) // a driver of some device: not yet known to be of ours
	}
	return nil
}

func (in *install) hotplug(e disks.Event) {
	switch alias := e.Env["MODALIAS"]; {
	case e.Action == "overrun":
		go in.guard("devices", in.modules.Coldplug)
	case e.Action == "add" && alias != "":
		go in.guard("driver for "+alias, func() error { return in.modules.Match(alias) })
	}
}

func (in *install) guard(what string, f func() error) {
	defer func() {
		if r := recover(); r != nil {
			in.log.Error("init is broken", "in", what, "panic", fmt.Sprint(r))
		}
	}()
	if err := f(); err != nil {
		in.log.Error(what + ": " + err.Error())
	}
}

// network brings it up and makes the client of the server.
func (in *install) network(ctx context.Context) error {
	base, ok := in.line.Get("ward.url")
	if !ok {
		base = in.pins.URL
	}
	if in.net == nil {
		in.net = network.FromLine(in.line)
	}
	up, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	if err := in.net.Up(up, keysource.Request{Log: in.log, Module: in.modules.Load}); err != nil {
		return err
	}
	var err error
	in.server, err = newServer(in.log, base, in.pins.CA)
	return err
}

// rule is which disk to write: the kernel line's word, the machine's, the manifest's.
func (in *install) rule(m *netimage.Manifest, me netimage.Machine) (netimage.Rule, error) {
	word := m.Target
	if me.Target != "" {
		word = me.Target
	}
	if v, ok := in.line.Get("ward.disk"); ok {
		word = v
	}
	return netimage.ParseRule(word)
}

// check fetches the whole image and compares each chunk; nothing is written.
func (in *install) check(ctx context.Context, d netimage.Disk) error {
	err := in.server.stream(ctx, d, d.Check)
	if err != nil {
		return err
	}
	in.log.Info("the image is as the manifest says", "chunks", len(d.Chunks))
	return nil
}
