package handoff

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// What a machine has whose root partition is verified by dm-verity and read-only.
const (
	// VerityWord is the word of the kernel line that says what root must be.
	VerityWord = "ward.verity"
	// VerityName is the device-mapper name of the verified root.
	VerityName = "root"
	// VerityBlock is the size of a block of data and of the hash tree, bytes.
	VerityBlock = 4096
	// StateType is the GPT type GUID of the partition with what such a machine
	// writes, ward's own; StateLabel is its name.
	StateType  = "c91c818a-5bd0-4a3c-9c3f-0d3a5a1e7f26"
	StateLabel = "state"
	// StateMount is where that partition is mounted.
	StateMount = "/run/ward/state"
)

// Overlaid are the folders of a verified root that can be written to: what is
// written lies on the state partition, in FOLDER/upper.
var Overlaid = []string{"etc", "var", "home", "root"}

// Verity is a verified root: its first Blocks blocks are data, and the hash tree
// (SHA-256, without a superblock) begins right after them.
type Verity struct {
	Blocks uint64
	Salt   string // hex
	Digest string // hex: of the root of the tree
}

// maxVerityBlocks is 16 TiB, the most that ext4 has with blocks of 4 KiB and 32 bits.
const maxVerityBlocks = 1 << 32

// String is the value of VerityWord.
func (v Verity) String() string {
	return strconv.FormatUint(v.Blocks, 10) + ":" + v.Salt + ":" + v.Digest
}

// ParseVerity reads the value of VerityWord.
func ParseVerity(s string) (Verity, error) {
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return Verity{}, fmt.Errorf("%s: %d parts, want BLOCKS:SALT:DIGEST", VerityWord, len(f))
	}
	n, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil || n == 0 || n > maxVerityBlocks {
		return Verity{}, fmt.Errorf("%s: %.20q is no number of blocks", VerityWord, f[0])
	}
	for _, part := range f[1:] {
		if b, err := hex.DecodeString(part); err != nil || len(b) != 32 || part != strings.ToLower(part) {
			return Verity{}, fmt.Errorf("%s: salt and digest are 64 lower-case hex digits each", VerityWord)
		}
	}
	return Verity{Blocks: n, Salt: f[1], Digest: f[2]}, nil
}

// VerityTree is how many blocks the hash tree of that many blocks of data has: each
// block of it holds 128 digests.
func VerityTree(blocks uint64) uint64 {
	const perBlock = VerityBlock / 32
	var all uint64
	for n := blocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		all += n
	}
	return all
}
