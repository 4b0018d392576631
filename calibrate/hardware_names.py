"""Names of accelerators: what logs and published tables call them, to the name in moesim's catalogue.

An explicit table: a spelling that no row knows has no name, and whoever asked must be told. Standard library only.
"""

import re

# Rows are tried in order, the whole text must match, letter case does not matter.
_SPELLINGS = (
    # What drivers print (nvidia-smi, rocminfo), found in nccl-tests headers and in silicon tables.
    (r"(nvidia )?gh200 .*", "gh200-96"),
    (r"(nvidia )?gb200( nvl72.*)?", "gb200-nvl72"),
    (r"(nvidia )?gb300( nvl72.*)?", "gb300-nvl72"),
    (r"(nvidia )?(dgx )?a100-sxm4?-40gb", "a100-40-sxm"),
    (r"(nvidia )?(dgx )?a100-sxm4?-80gb", "a100-80-sxm"),
    (r"(nvidia )?h100( 80gb hbm3)?( sxm5?)?", "h100-sxm"),
    (r"(nvidia )?h200( sxm5?)?", "h200-sxm"),
    (r"(nvidia )?h800( sxm5?)?", "h800-sxm"),
    (r"(nvidia )?b200( sxm\d?)?", "b200-sxm"),
    (r"(nvidia )?b300( sxm\d?( ac)?)?", "b300-sxm"),
    (r"(amd )?(instinct )?mi300x( oam)?", "mi300x"),
    (r"(amd )?(instinct )?mi355x( oam)?", "mi355x"),
    # Folders of aiconfigurator-core, and short names of people.
    (r"a100[-_]sxm|a100", "a100-80-sxm"),
    (r"(h100|h200|h800|b200|b300)[-_]sxm", r"\1-sxm"),
    # Free text of published tables: so many per node, their links and their network.
    (r"8xa100-sxm4-80gb nvlink3.*", "a100-80-sxm"),
    (r"8x(h100|h200|h800|b200|b300)( 80gb hbm3, 8/node)?( nvlink\d?.*| \+ .*)", r"\1-sxm"),
    (r"4x(gb200|gb300) nvlink5.*", r"\1-nvl72"),
    (r"8x(mi300x|mi355x)( xgmi| \+ ).*", r"\1"),
    (r"h800 \(nvcc [\d.]+\)|h800 cluster", "h800-sxm"),
)
_CATALOGUE = re.compile(
    r"a100-40-sxm|a100-80-sxm|gh200-96|(h100|h200|h800|b200|b300)-sxm|gb[23]00-nvl72|mi300x|mi355x|mi250x-gcd"
    r"|ascend-910c|trainium2|tpu-v(3|4|5e|5p|6e|7)"
)


def catalogue_name(text: str) -> str | None:
    """The catalogue's name of the accelerator that `text` speaks of; None where the table does not know the spelling.

    >>> catalogue_name("NVIDIA H100 80GB HBM3"), catalogue_name("8xB200 NVLink5"), catalogue_name("NVIDIA H100 PCIe")
    ('h100-sxm', 'b200-sxm', None)
    """
    plain = " ".join(text.lower().split())
    if _CATALOGUE.fullmatch(plain):
        return plain
    for spelling, name in _SPELLINGS:
        found = re.fullmatch(spelling, plain)
        if found:
            return found.expand(name)
    return None


def profile_of(name: str) -> str:
    """The shipped profile for a catalogue name: both memory sizes of the A100 share one.

    >>> profile_of("a100-80-sxm"), profile_of("mi300x")
    ('a100-sxm', 'mi300x')
    """
    return "a100-sxm" if name in ("a100-40-sxm", "a100-80-sxm") else name
