package network

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ward/initramfs/boot/keysource"
)

// stack is the interfaces that are made before an address is asked for: a bond of
// network cards, a VLAN on one or on the bond. The zero stack makes none.
type stack struct {
	bond  string   // its name; "" is no bond
	ports []string // cards of the bond
	mode  netlink.BondMode

	vlan   string // its name; "" is no VLAN
	parent string // what it is on
	id     int
}

// parseStack reads the values of bond= and vlan=, in dracut.cmdline(7)'s syntax:
//
//	bond=NAME:CARD[,CARD...][:mode=active-backup|802.3ad|balance-xor|...]   vlan=NAME.ID:PARENT
func parseStack(bond, vlan string) (stack, error) {
	var s stack
	if bond != "" {
		fault := func(what string) (stack, error) { return stack{}, fmt.Errorf("bond=%s: %s", bond, what) }
		f := strings.Split(bond, ":")
		if len(f) < 2 || len(f) > 3 || !isIface(f[0]) {
			return fault("want NAME:CARD,CARD[:mode=MODE]")
		}
		s.bond, s.ports, s.mode = f[0], strings.Split(f[1], ","), netlink.BOND_MODE_ACTIVE_BACKUP
		seen := map[string]bool{s.bond: true}
		for _, p := range s.ports {
			if !isIface(p) || seen[p] {
				return fault(fmt.Sprintf("%q is no card of its own", p))
			}
			seen[p] = true
		}
		if len(f) == 3 {
			word, ok := strings.CutPrefix(f[2], "mode=")
			if s.mode = netlink.StringToBondMode(word); !ok || s.mode == netlink.BOND_MODE_UNKNOWN {
				return fault(fmt.Sprintf("%q is no mode", f[2]))
			}
		}
	}
	if vlan != "" {
		fault := func(what string) (stack, error) { return stack{}, fmt.Errorf("vlan=%s: %s", vlan, what) }
		name, parent, ok := strings.Cut(vlan, ":")
		at := strings.LastIndexFunc(name, func(r rune) bool { return r < '0' || r > '9' })
		id, err := strconv.Atoi(name[at+1:])
		// IEEE 802.1Q: 0 is no VLAN, 4095 is reserved.
		if !ok || !isIface(name) || !isIface(parent) || name == parent || err != nil || id < 1 || id > 4094 {
			return fault("want NAME.ID:PARENT with an ID from 1 to 4094")
		}
		for _, p := range s.ports {
			if p == parent {
				return fault(parent + " is a card of the bond: the VLAN is on the bond itself")
			}
		}
		s.vlan, s.parent, s.id = name, parent, id
	}
	return s, nil
}

// isIface tells whether a name can be an interface's: dev_valid_name in the
// kernel's net/core/dev.c.
func isIface(s string) bool {
	return s != "" && len(s) < unix.IFNAMSIZ && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}

// top is the interface that gets the address; "" is any card.
func (s stack) top() string {
	if s.vlan != "" {
		return s.vlan
	}
	return s.bond
}

// modules are the kernel modules that the stack needs.
func (s stack) modules() []string {
	var names []string
	if s.bond != "" {
		names = append(names, "bonding")
	}
	if s.vlan != "" {
		names = append(names, "8021q")
	}
	return names
}

// prepare loads what the stack needs and makes the bond, which takes its cards as
// they appear.
func (s stack) prepare(req keysource.Request) error {
	for _, name := range s.modules() {
		if req.Module == nil {
			break
		}
		if err := req.Module(name); err != nil {
			return err
		}
	}
	if s.bond == "" {
		return nil
	}
	// The module makes one bond0 by itself, of a mode that may be another.
	if old, err := netlink.LinkByName(s.bond); err == nil && old.Type() == "bond" {
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("bond %s: %w", s.bond, err)
		}
	}
	b := netlink.NewLinkBond(netlink.LinkAttrs{Name: s.bond})
	b.Mode, b.Miimon = s.mode, 100 // ms; without it a bond does not see a card's cable
	if err := netlink.LinkAdd(b); err != nil {
		return fmt.Errorf("bond %s: %w", s.bond, err)
	}
	return nil
}

// own tells whether an interface is part of the stack.
func (s stack) own(name string) bool {
	if name == "" {
		return false
	}
	for _, p := range s.ports {
		if p == name {
			return true
		}
	}
	return name == s.bond || name == s.vlan || name == s.parent
}

// grow does what a new interface makes possible: a card goes into the bond, the
// VLAN onto its parent. It may be called again for the same interface.
func (s stack) grow(link netlink.Link) error {
	name := link.Attrs().Name
	for _, p := range s.ports {
		if p != name || link.Attrs().MasterIndex != 0 {
			continue
		}
		bond, err := netlink.LinkByName(s.bond)
		if err != nil {
			return fmt.Errorf("bond %s: %w", s.bond, err)
		}
		// A card must be down to enter a bond: Documentation/networking/bonding.rst.
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("bond %s: %s: %w", s.bond, name, err)
		}
		if err := netlink.LinkSetMaster(link, bond); err != nil {
			return fmt.Errorf("bond %s: %s: %w", s.bond, name, err)
		}
		return netlink.LinkSetUp(link)
	}
	if s.vlan == "" || name != s.parent {
		return nil
	}
	v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: s.vlan, ParentIndex: link.Attrs().Index}, VlanId: s.id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	if err := netlink.LinkAdd(v); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("vlan %s: %w", s.vlan, err)
	}
	return nil
}

// remove takes the made interfaces away.
func (s stack) remove() error {
	var errs []error
	for _, name := range []string{s.vlan, s.bond} {
		if name == "" {
			continue
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			continue // never made
		}
		if err := netlink.LinkDel(l); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// carrier tells whether frames pass an interface: for a bond, through any card.
func carrier(l netlink.Link, flags uint32) bool {
	return l.Attrs().Flags&net.FlagUp != 0 && flags&unix.IFF_LOWER_UP != 0
}
