package secureboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unicode/utf16"

	"github.com/google/uuid"
)

// Enrol returns a copy of an empty variable store of OVMF in which the keys of a
// folder are enrolled and Secure Boot is on. The form is edk2's: a firmware volume
// (MdePkg/Include/Pi/PiFirmwareVolume.h) with authenticated variables
// (MdeModulePkg/Include/Guid/VariableFormat.h).
func Enrol(vars []byte, dir string) ([]byte, error) {
	at, end, err := emptyStore(vars)
	if err != nil {
		return nil, err
	}
	out := bytes.Clone(vars)
	put := func(name, guid string, attributes uint32, data []byte) error {
		v := variable(name, uuid.MustParse(guid), attributes, data)
		if at+len(v) > end {
			return fmt.Errorf("%s: no room in the variable store", name)
		}
		copy(out[at:], v)
		at = (at + len(v) + 3) &^ 3
		return nil
	}
	for _, v := range variables {
		list, err := os.ReadFile(filepath.Join(dir, v.Name+listSuffix))
		if err != nil {
			return nil, fmt.Errorf("%w\nhint: `ward key secure-boot DIR` makes keys", err)
		}
		if err := put(v.Name, v.GUID.Format(), uint32(v.Attributes), list); err != nil {
			return nil, err
		}
	}
	// What the firmware itself writes when somebody enrols a PK in its menu
	// (SecurityPkg/Library/AuthVariableLib).
	return out, errors.Join(
		put("SecureBootEnable", "f0a30bc7-af08-4556-99c4-001009c93a44", nonVolatileBoot, []byte{1}),
		put("CustomMode", "c076ec0c-7028-4399-a072-71ee5c448b9f", nonVolatileBoot, []byte{0}))
}

// Numbers of edk2's headers.
const (
	volumeHeaderLen = 48     // where HeaderLength of EFI_FIRMWARE_VOLUME_HEADER is
	storeHeader     = 28     // VARIABLE_STORE_HEADER
	storeFormatted  = 0x5a   // its Format
	storeHealthy    = 0xfe   // its State
	variableStart   = 0x55aa // StartId
	variableAdded   = 0x3f   // State: written whole, not deleted
	variableHeader  = 60     // AUTHENTICATED_VARIABLE_HEADER, packed
	nonVolatileBoot = 0x3    // NON_VOLATILE | BOOTSERVICE_ACCESS
)

var (
	// gEfiSystemNvDataFvGuid and gEfiAuthenticatedVariableGuid.
	volumeGUID = efiGUID(uuid.MustParse("fff12b8d-7696-4c8b-a985-2747075b4f50"))
	storeGUID  = efiGUID(uuid.MustParse("aaf32c78-947b-439a-a180-2e144ec37792"))
)

// emptyStore returns where the first variable goes, and where the store ends.
func emptyStore(b []byte) (first, end int, err error) {
	const fault = "is no empty variable store of OVMF"
	if len(b) < 4096 || !bytes.Equal(b[16:32], volumeGUID) || string(b[40:44]) != "_FVH" {
		return 0, 0, errors.New(fault + ": no firmware volume")
	}
	at := int(binary.LittleEndian.Uint16(b[volumeHeaderLen:]))
	if at+storeHeader > len(b) || !bytes.Equal(b[at:at+16], storeGUID) || b[at+20] != storeFormatted || b[at+21] != storeHealthy {
		return 0, 0, errors.New(fault + ": no authenticated variables")
	}
	end = at + int(binary.LittleEndian.Uint32(b[at+16:]))
	first = at + storeHeader
	if end > len(b) || end < first {
		return 0, 0, errors.New(fault + ": it ends beyond the file")
	}
	for _, c := range b[first:end] {
		if c != 0xff {
			return 0, 0, errors.New(fault + ": it holds variables")
		}
	}
	return first, end, nil
}

// variable is one variable as edk2 stores it. The time of an authenticated one is
// zero: any later update is newer.
func variable(name string, guid uuid.UUID, attributes uint32, data []byte) []byte {
	text := utf16.Encode([]rune(name + "\x00"))
	le := binary.LittleEndian
	b := make([]byte, variableHeader)
	le.PutUint16(b, variableStart)
	b[2] = variableAdded
	le.PutUint32(b[4:], attributes)
	le.PutUint32(b[36:], uint32(2*len(text)))
	le.PutUint32(b[40:], uint32(len(data)))
	copy(b[44:], efiGUID(guid))
	for _, c := range text {
		b = le.AppendUint16(b, c)
	}
	return append(b, data...)
}

// efiGUID is a GUID as UEFI stores it: the first three parts are little endian.
func efiGUID(u uuid.UUID) []byte {
	b := bytes.Clone(u[:])
	for _, r := range [][2]int{{0, 4}, {4, 6}, {6, 8}} {
		for i, j := r[0], r[1]-1; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
	}
	return b
}
