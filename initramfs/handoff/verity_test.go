package handoff

import (
	"strings"
	"testing"
)

func TestVerityWord(t *testing.T) {
	v := Verity{Blocks: 520_192, Salt: strings.Repeat("ab", 32), Digest: strings.Repeat("01", 32)}
	if got, err := ParseVerity(v.String()); err != nil || got != v {
		t.Errorf("ParseVerity(%s) = %+v, %v, want %+v", v, got, err, v)
	}
	for text, want := range map[string]string{
		"":                            "1 parts",
		"1:" + v.Salt:                 "2 parts",
		"0:" + v.Salt + ":" + v.Salt:  "is no number of blocks",
		"-1:" + v.Salt + ":" + v.Salt: "is no number of blocks",
		"99999999999999:" + v.Salt + ":" + v.Salt:               "is no number of blocks",
		"1:" + v.Salt + ":" + strings.ToUpper(v.Salt):           "lower-case hex",
		"1:" + v.Salt + ":" + v.Salt[2:]:                        "64 lower-case hex",
		"1:" + v.Salt + ":" + v.Salt + " ignore_corruption":     "64 lower-case hex",
		"1:" + v.Salt + " 1 ignore_corruption:" + v.Salt + "::": "5 parts",
	} {
		if _, err := ParseVerity(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseVerity(%q) = %v, want an error with %q", text, err, want)
		}
	}
}

func TestVerityTree(t *testing.T) {
	// As veritysetup 2.6.1 writes them: the file's size after format, without data.
	for blocks, want := range map[uint64]uint64{1: 0, 2: 1, 128: 1, 129: 3, 16384: 129, 16385: 132} {
		if got := VerityTree(blocks); got != want {
			t.Errorf("VerityTree(%d) = %d, want %d", blocks, got, want)
		}
	}
}

func FuzzVerity(f *testing.F) {
	f.Add("520192:" + strings.Repeat("ab", 32) + ":" + strings.Repeat("01", 32))
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseVerity(text)
		if err != nil {
			return
		}
		if again, err := ParseVerity(v.String()); err != nil || again != v {
			t.Errorf("%q is %+v, whose text is %q: %v", text, v, v, err)
		}
		if strings.ContainsAny(v.String(), " \t\n") {
			t.Errorf("%q has a space", v)
		}
	})
}
