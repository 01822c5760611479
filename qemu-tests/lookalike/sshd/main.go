// Command sshd of the look-alike takes the listening socket that systemd hands
// over (sd_listen_fds(3)) and starts the real sshd for each connection (sshd(8),
// -i), which Ubuntu's sshd does by itself.
package main

import (
	"log"
	"net"
	"os"
	"os/exec"
)

func main() {
	listener, err := net.FileListener(os.NewFile(3, "ssh.socket"))
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn.(*net.TCPConn))
	}
}

func serve(conn *net.TCPConn) {
	file, err := conn.File()
	conn.Close()
	if err != nil {
		log.Print(err)
		return
	}
	defer file.Close()
	cmd := exec.Command("/usr/sbin/sshd", "-i")
	cmd.Stdin, cmd.Stdout = file, file
	if err := cmd.Run(); err != nil {
		log.Print(err)
	}
}
