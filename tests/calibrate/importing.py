"""Importing a text as a file: what the importer tests share."""

from types import SimpleNamespace

from calibrate.import_logs import IMPORTERS, recognised_format
from calibrate.import_report import ImportOptions, ImportReport


def import_text(tmp_path, text, name="some.log", **options):
    """Write `text` to a file, recognise it and read it: format, measurements, remarks, counts."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return import_file(path, **options)


def import_file(path, **options):
    """Recognise a file and read it."""
    report = ImportReport()
    name = recognised_format(str(path))
    measurements = list(IMPORTERS.get(name)(str(path), ImportOptions(**options), report))
    return SimpleNamespace(format=name, measurements=measurements, remarks=report.lines(), counts=report.counts)
