package initramfs

// Set is a named choice of kernel modules for an initramfs.
type Set struct {
	Name string
	// Load are loaded at once on start, the first ones first: what no device
	// announces by itself, or what is worth not waiting for. "A|B" is B where A
	// cannot be loaded.
	Load []string
	// Have are in the image and are loaded when a device with their alias appears.
	Have []string
}

// Sets are the choices that Spec.Modules may name; other words are names of
// modules. A module that a kernel does not have, under any name, is left out of
// a set without a word: sets are made for every release.
var Sets = []Set{
	{
		// Every volume needs these: device-mapper, the cipher that is allow-listed,
		// and the file systems of root, key device and ESP. dm-crypt asks for
		// "xts(aes)" by name and there is no modprobe here, so they are loaded first.
		// aesni_intel (amd64) and aes_ce_blk (arm64) bring their own xts.
		Name: "base",
		Load: []string{"aesni_intel|aes_ce_blk|xts", "dm_crypt"},
		Have: []string{"ext4", "vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8", "qemu_fw_cfg", "efivarfs"},
	},
	{Name: "virtio", Load: []string{"virtio_pci", "virtio_blk"}, Have: []string{"virtio_scsi", "sd_mod", "virtio_mmio"}},
	{Name: "nvme", Have: []string{"nvme"}},
	{Name: "scsi", Have: []string{"sd_mod", "ahci", "ata_piix", "ata_generic", "mptspi", "mptsas", "mpt3sas", "megaraid_sas", "smartpqi", "hpsa", "aacraid", "sym53c8xx"}},
	{Name: "hyperv", Have: []string{"hv_vmbus", "hv_storvsc", "pci_hyperv", "sd_mod"}},
	{Name: "vmware", Have: []string{"vmw_pvscsi", "mptspi", "sd_mod", "vmxnet3"}},
	{Name: "xen", Have: []string{"xen_blkfront"}},
	{Name: "usb", Have: []string{"xhci_pci", "xhci_hcd", "ehci_pci", "uhci_hcd", "ohci_pci", "usb_storage", "uas", "sd_mod"}},
	{Name: "mmc", Have: []string{"sdhci_pci", "sdhci_acpi", "mmc_block"}},
	// A verified root and what is written over it.
	{Name: "verity", Load: []string{"dm_verity", "overlay"}, Have: []string{"sha256_ssse3", "sha2_ce"}},
	{Name: "tpm", Have: []string{"tpm_tis", "tpm_crb"}},
	{
		Name: "net",
		// AF_PACKET carries DHCP and has no device that would announce it.
		Load: []string{"af_packet"},
		Have: []string{"virtio_net", "e1000", "e1000e", "igb", "ixgbe", "ixgbevf", "i40e", "iavf", "ice", "r8169", "tg3", "bnxt_en", "mlx4_en", "mlx5_core", "vmxnet3", "hv_netvsc", "xen_netfront", "ena", "gve"},
	},
	// What an address may be on beside a card; loaded when the kernel line says so.
	{Name: "netstack", Have: []string{"bonding", "8021q"}},
}

// composed are sets made of sets. "base" is part of every image.
var composed = map[string][]string{
	"generic": {"virtio", "nvme", "scsi", "hyperv", "vmware", "xen", "usb", "mmc", "tpm", "net"},
}
