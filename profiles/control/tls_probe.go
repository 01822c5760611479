package control

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// tlsProbe tries real handshakes on loopback. Its first argument is what to try,
// the others are TLS versions. It prints "VERSION refused: reason" or "VERSION
// served", and "free VERSION served" for the same pair without the machine's
// configuration: that shows that the version could be spoken at all.
//
// The side under test runs with the machine's own configuration; the other side
// with none and with level 0, which allows everything. A pre-shared key spares the
// making of a certificate, and none of the system's authorities are read.
const tlsProbe = `set -u
what=$1; shift
d=$(mktemp -d /run/ward-tls-XXXXXX) || exit 1
s=
trap '[ -z "$s" ] || kill $s 2>/dev/null; rm -r "$d"' EXIT
cd "$d" || exit 1
free() { OPENSSL_CONF=/dev/null GNUTLS_SYSTEM_PRIORITY_FILE=/dev/null "$@"; }
own() { "$@"; }
serve() {
	: >log
	"$@" $bare -accept 127.0.0.1:0 -naccept 1 -www >log 2>&1 </dev/null &
	s=$! port= i=0
	while [ $i -lt 100 ]; do
		while read -r word at; do [ "$word" != ACCEPT ] || port=${at##*:}; done <log
		[ -z "$port" ] || return 0
		sleep 0.1
		i=$((i + 1))
	done
	cat log >&2
	exit 1
}
flag() { f=-tls${1%.*}_${1#*.}; }
bare="-no-CAfile -no-CApath -no-CAstore"
connect() { "$@" $bare -connect "127.0.0.1:$port" -brief </dev/null 2>&1; }
tell() {
	if echo "$2" | grep -q 'CONNECTION ESTABLISHED\|Handshake was completed'; then
		echo "$1 served"
	else
		echo "$1 refused: $(echo "$2" | grep -i -m1 'alert\|routines\|priorit\|fatal' | tr -d '\n' | cut -c1-160)"
	fi
	echo "$2" | sed -n 's/^\(Server\|Peer\) Temp Key: /group /p'
	kill $s 2>/dev/null
	s=
}
clientpsk="-psk 5741524400 -psk_identity ward"
psk="-nocert $clientpsk"
all="-cipher ALL:@SECLEVEL=0"
dhe="-cipher DHE-PSK-AES128-GCM-SHA256"
case $what in
server|client)
	for v; do
		flag $v
		case $what in
		server) serve own openssl s_server $psk; tell $v "$(connect free openssl s_client $clientpsk $f $all)";;
		client) serve free openssl s_server $psk $f $all; tell $v "$(connect own openssl s_client $clientpsk)";;
		esac
	done
	flag $1
	serve free openssl s_server $psk $f $all
	tell "free $1" "$(connect free openssl s_client $clientpsk $f $all)"
	;;
gnutls)
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -days 2 -subj /CN=localhost 2>/dev/null || exit 1
	for v in "$@" "free $1"; do
		flag ${v#free }
		with=${v%% *}
		[ $with = free ] || with=own
		serve free openssl s_server -cert c -key k $f $all
		tell "$v" "$($with gnutls-cli --no-ca-verification --priority NORMAL:-VERS-ALL:+VERS-TLS${v#free } -p $port 127.0.0.1 </dev/null 2>&1)"
	done
	;;
dh)
	cat >weak.pem <<-'END'
` + weakDH + `	END
	weak="-dhparam weak.pem -tls1_2 $dhe:@SECLEVEL=0"
	serve free openssl s_server $psk $weak; tell 1024 "$(connect own openssl s_client $clientpsk $dhe)"
	serve free openssl s_server $psk $weak; tell 'free 1024' "$(connect free openssl s_client $clientpsk $dhe:@SECLEVEL=0)"
	serve own openssl s_server $psk -tls1_2 $dhe; tell own "$(connect own openssl s_client $clientpsk $dhe)"
	;;
esac
exit 0
`

// tlsCheck tries the versions that must be refused and the oldest that is served.
func tlsCheck(side, min string) func(context.Context, *Machine) (string, error) {
	return func(ctx context.Context, m *Machine) (string, error) {
		versions := append(refusedVersions(min), min)
		out, err := script(ctx, m, "tls", tlsProbe, append([]string{side}, versions...)...)
		if err != nil {
			return "", err
		}
		said := tlsAnswers(out)
		if free := "free " + versions[0]; said[free] != "served" {
			return "", fmt.Errorf("TLS %s cannot be tried: without the machine's configuration it is %q", versions[0], said[free])
		}
		var faults []string
		for _, v := range versions[:len(versions)-1] {
			if said[v] == "" {
				return "", fmt.Errorf("no answer for TLS %s: %q", v, out)
			}
			if said[v] == "served" {
				faults = append(faults, "TLS "+v+" is served")
			}
		}
		if said[min] != "served" {
			faults = append(faults, "TLS "+min+" is "+said[min])
		}
		who := map[string]string{"server": "a client", "client": "a server", "gnutls": "a server"}[side]
		return orFaults(faults, tlsWant(who, min)), nil
	}
}

// tlsAnswers reads the probe's lines into version and answer.
func tlsAnswers(out string) map[string]string {
	said := make(map[string]string)
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		for _, answer := range []string{" served", " refused: "} {
			if what, reason, ok := strings.Cut(line, answer); ok {
				said[what] = strings.TrimSpace(answer + reason)
				break
			}
		}
	}
	return said
}

// weakDH is a group of 1024 bits made for this probe; nobody else uses it.
const weakDH = `-----BEGIN DH PARAMETERS-----
MIGHAoGBAMqfVPxWB33e1yExM8EnAaYP9cF1Vufa475yX6I6OqxRftyXsbbt52nP
BjGJho4e+42fnviAC5ErgRjasWrmFZPoiqm6dK6YpcB/EEPXp4jCahiOmVVdHNBW
ZCtZ5/ef1ze+CWi/nyKCiYaMFr9a4fMQilMqQW42e63x8qQgsDrXAgEC
-----END DH PARAMETERS-----
`

var dhBits = regexp.MustCompile(`^group DH, ([0-9]+) bits`)

func checkDH(ctx context.Context, m *Machine) (string, error) {
	out, err := script(ctx, m, "tls", tlsProbe, "dh")
	if err != nil {
		return "", err
	}
	said := tlsAnswers(out)
	if said["free 1024"] != "served" {
		return "", fmt.Errorf("a 1024-bit group cannot be tried: without the machine's configuration it is %q", said["free 1024"])
	}
	if said["1024"] == "served" {
		return "a group of 1024 bits is accepted", nil
	}
	if said["own"] != "served" {
		return "DHE does not work at all: " + said["own"], nil
	}
	bits := 0
	for line := range strings.Lines(out) {
		if g := dhBits.FindStringSubmatch(line); g != nil {
			bits, _ = strconv.Atoi(g[1]) // the last is the machine's own
		}
	}
	if bits < 2048 {
		return fmt.Sprintf("the machine's own group has %d bits", bits), nil
	}
	return "1024 bits refused, own group 2048 or more", nil
}
