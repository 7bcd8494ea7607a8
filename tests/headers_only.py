"""Sound CT slices of 16 x 16 pixels, a kilobyte each, written by the hundred thousand."""

import struct

EXPLICIT = b"1.2.840.10008.1.2.1"
SPACING_MM = 8.0


def _element(tag, vr, value):
    """One element in explicit VR, little endian."""
    padding = b"\0" if vr == b"UI" else b" "
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def header_file(study, number):
    """The bytes of slice `number` of study `study`, of a patient of its own."""
    uid = b"1.2.826.0.1.3680043.10.999.%d" % (study + 1)
    short = struct.Struct("<H").pack
    elements = [
        (0x00080008, b"CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        (0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2"),
        (0x00080018, b"UI", uid + b".1.%d" % (number + 1)),
        (0x00100020, b"LO", b"P%d" % study),
        (0x0020000D, b"UI", uid),
        (0x0020000E, b"UI", uid + b".1"),
        (0x00200032, b"DS", b"0\\0\\%.1f" % (SPACING_MM * number)),
        (0x00200037, b"DS", b"1\\0\\0\\0\\1\\0"),
        (0x00280002, b"US", short(1)),
        (0x00280004, b"CS", b"MONOCHROME2"),
        (0x00280010, b"US", short(16)),
        (0x00280011, b"US", short(16)),
        (0x00280030, b"DS", b"20\\20"),
        (0x00280100, b"US", short(16)),
        (0x00280101, b"US", short(16)),
        (0x00280103, b"US", short(0)),
        (0x00281052, b"DS", b"-1024"),
        (0x00281053, b"DS", b"1"),
    ]
    meta = bytes(128) + b"DICM" + _element(0x00020010, b"UI", EXPLICIT)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 512) + bytes(512)
    return meta + b"".join(_element(*element) for element in elements) + pixels


def write_folders(top, n_folders, per_folder, *, name_length=0):
    """`n_folders` folders of a study each below `top`; names of files and folders are filled up to `name_length`."""
    for study in range(n_folders):
        home = top / f"{study:06d}".ljust(name_length, "f")
        home.mkdir(parents=True)
        for number in range(per_folder):
            (home / f"{number:06d}".ljust(name_length, "n")).write_bytes(header_file(study, number))
    return top
