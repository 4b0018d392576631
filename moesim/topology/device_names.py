"""Names of accelerators in topologies/accelerators by what systems call them: PCI ids and products."""

from moesim.topology.claims import Said

# vendor:device of the PCI ID Repository (pci.ids)
_PCI = {
    **{"10de:20b0": "a100-40-sxm", "10de:20b2": "a100-80-sxm", "10de:2330": "h100-sxm", "10de:2335": "h200-sxm"},
    **{"10de:2324": "h800-sxm", "10de:2342": "gh200-96", "10de:2901": "b200-sxm", "10de:2941": "gb200-nvl72"},
    **{"1002:7408": "mi250x-gcd", "1002:74a1": "mi300x", "1002:75a3": "mi355x"},
}
_PRODUCTS = {
    **{"H100": "h100-sxm", "H200": "h200-sxm", "H800": "h800-sxm", "GH200": "gh200-96", "B200": "b200-sxm"},
    **{"B300": "b300-sxm", "GB200": "gb200-nvl72", "MI300X": "mi300x", "MI355X": "mi355x"},
    **{"A100-SXM4-40GB": "a100-40-sxm", "A100-SXM4-80GB": "a100-80-sxm"},
}
_OTHER_FORMS = ("PCIE", "NVL", "L40")  # the same chip on a card has other rates


def by_pci(vendor: str, device: str, source: str) -> dict[str, Said]:
    """`accelerator` for a PCI id such as 0x10de, 0x2330; nothing for one that is not known."""
    code = f"{vendor.removeprefix('0x').lower()}:{device.removeprefix('0x').lower()}"
    name = _PCI.get(code)
    return {} if name is None else {"accelerator": Said(name, "derived", f"{source}: PCI id {code} (pci.ids)")}


def by_product(product: str, source: str) -> dict[str, Said]:
    """`accelerator` for a product such as NVIDIA-H100-80GB-HBM3 or H100; nothing for one that is not known."""
    text = product.upper().replace(" ", "-")
    if any(form in text for form in _OTHER_FORMS):
        return {}
    known = sorted(_PRODUCTS, key=len, reverse=True)
    name = next((_PRODUCTS[one] for one in known if text == one or f"-{one}-" in f"-{text}-"), None)
    return {} if name is None else {"accelerator": Said(name, "derived", f"{source}: product {product[:60]}")}
