"""What other tools need to know of tcpcrypt: scapy, Wireshark, systemd, Grafana, shells."""
