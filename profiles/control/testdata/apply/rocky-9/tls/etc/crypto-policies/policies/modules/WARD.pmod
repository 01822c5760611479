# mode -rw-r--r--
# ward: tls
min_tls_version = TLS1.2
min_dtls_version = DTLS1.2
min_dh_size = 2048
min_rsa_size = 2048
