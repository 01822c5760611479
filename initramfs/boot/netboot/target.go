package netboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ward/initramfs/boot/disks"
	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// disk is a whole disk that may be meant.
type disk struct {
	Name   string
	Path   string
	Serial string
	WWN    string
	Size   int64  // bytes
	Sector int    // logical
	Data   string // what is on it; "" is nothing
	PHI    bool   // it holds patients' data of a ward machine
}

func (d disk) String() string {
	s := d.Name
	if d.Serial != "" {
		s += " (serial " + d.Serial + ")"
	}
	return s
}

// target waits for the machine's disks and chooses one. Disks that appear a
// little later than the first still count: one that is not seen cannot be told
// from one that is not there.
func (in *install) target(ctx context.Context, rule netimage.Rule, image netimage.Disk) (disk, error) {
	const first, more = 20 * time.Second, 3 * time.Second
	whole := func(b disks.Block) bool { return b.Number == 0 }
	ctx, cancel := context.WithTimeout(ctx, first)
	defer cancel()
	_, _ = in.disks.Wait(ctx, whole)
	select {
	case <-time.After(more):
	case <-ctx.Done():
	}
	_ = in.disks.Settle(ctx)
	var found []disk
	for _, b := range in.disks.Find(whole) {
		d, writable, err := readDisk("/sys", b)
		if err != nil {
			in.log.Warn("disk left out", "disk", b.Name, "err", err)
			continue
		}
		if !writable {
			continue
		}
		d.PHI = len(in.disks.Find(func(p disks.Block) bool { return p.Disk == b.Name && p.PartType == handoff.PHIType && p.FS != "" })) > 0
		if d.Data, err = data(d.Path, d.Size, b.FS); err != nil {
			d.Data = "cannot be read: " + err.Error()
		}
		in.log.Info("disk", "name", d.Name, "serial", d.Serial, "wwn", d.WWN, "bytes", d.Size, "data", d.Data)
		found = append(found, d)
	}
	erase, _ := in.line.Get("ward.erase")
	return choose(rule, found, image, erase)
}

// choose is the decision, a pure function. erase is the serial number of a disk
// whose patients' data may be destroyed.
func choose(rule netimage.Rule, all []disk, image netimage.Disk, erase string) (disk, error) {
	if len(all) == 0 {
		return disk{}, errors.New("no disk: the machine has none that can be written")
	}
	list := func(ds []disk, show func(disk) string) string {
		var s []string
		for _, d := range ds {
			s = append(s, show(d))
		}
		return strings.Join(s, ", ")
	}
	fit := slices.DeleteFunc(slices.Clone(all), func(d disk) bool {
		switch rule.Kind {
		case "serial":
			return d.Serial != rule.Value
		case "wwn":
			return !strings.EqualFold(d.WWN, rule.Value)
		case "size":
			return d.Size < rule.Min || d.Size > rule.Max
		}
		return d.Data != ""
	})
	if len(fit) == 0 {
		return disk{}, fmt.Errorf("no disk is %s: %s", rule, list(all, func(d disk) string {
			what := fmt.Sprintf("%s has %d bytes, wwn %q", d, d.Size, d.WWN)
			if d.Data != "" {
				what += " and holds data: " + d.Data
			}
			return what
		}))
	}
	if len(fit) > 1 {
		return disk{}, fmt.Errorf("%d disks are %s: %s; say which with ward.disk=serial:", len(fit), rule, list(fit, disk.String))
	}
	d := fit[0]
	switch {
	case d.Data != "" && rule.Kind != "serial":
		return disk{}, fmt.Errorf("%s holds data: %s; only ward.disk=serial: has it overwritten", d, d.Data)
	case d.PHI && (erase == "" || erase != d.Serial):
		return disk{}, fmt.Errorf("%s holds patients' data; ward.erase=%s on the kernel line has it destroyed", d, d.Serial)
	case d.Size < image.Size:
		return disk{}, fmt.Errorf("%s is too small: it has %d bytes, the image needs %d", d, d.Size, image.Size)
	case d.Sector != image.Sector:
		return disk{}, fmt.Errorf("%s has sectors of %d bytes, the image is made for %d", d, d.Sector, image.Sector)
	}
	return d, nil
}

// readDisk asks sysfs for a disk.
func readDisk(sys string, b disks.Block) (d disk, writable bool, err error) {
	dir := filepath.Join(sys, "class/block", b.Name)
	sectors, err := number(dir, "size")
	if err != nil {
		return disk{}, false, err
	}
	ro, err := number(dir, "ro")
	if err != nil {
		return disk{}, false, err
	}
	logical, err := number(dir, "queue/logical_block_size")
	if err != nil {
		return disk{}, false, err
	}
	d = disk{Name: b.Name, Path: b.Path, Size: sectors * 512, Sector: int(logical)} // size counts 512 bytes, always
	d.Serial, d.WWN = serial(dir), word(dir, "wwid", "device/wwid")
	return d, ro == 0 && sectors > 0, nil
}

// serial is a disk's serial number: virtio, NVMe and MMC have a file for it, SCSI
// has VPD page 0x80, whose text follows four bytes (SPC-4, 7.8.15).
func serial(dir string) string {
	if s := word(dir, "serial", "device/serial"); s != "" {
		return s
	}
	page, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80"))
	if err != nil || len(page) < 4 {
		return ""
	}
	return printable(string(page[4:]))
}

func word(dir string, names ...string) string {
	for _, n := range names {
		if b, err := os.ReadFile(filepath.Join(dir, n)); err == nil {
			if s := printable(string(b)); s != "" {
				return s
			}
		}
	}
	return ""
}

// printable keeps what may stand in a log line: a disk's firmware wrote it.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, s))
}

func number(dir, name string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}
