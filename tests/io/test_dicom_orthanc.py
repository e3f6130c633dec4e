"""A derived series and its map in a PACS: Orthanc on loopback stores them, sorts them into the study, serves them."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace

import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest

from medldm.data.volume import Step
from medldm.io import read, write
from medldm.io.dicom import write_uncertainty
from medldm.provenance.record import RunRecord

ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ORTHANC, reason="Orthanc is not installed")]
FACTS = {"model": "tiny", "sha256": "ab" * 32, "seed": 7, "steps": 4, "medldm": "0.1.0"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def orthanc(tmp_path):
    """Asks a fresh server: path and bytes to send, if any; gives back bytes."""
    port = free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("w") as log:
        server = subprocess.Popen([ORTHANC, tmp_path / "orthanc.json"], stdout=log, stderr=log)

    def ask(path, body=None):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=body, timeout=30) as answer:
            return answer.read()

    for _ in range(100):
        try:
            ask("/system")
            break
        except OSError:
            time.sleep(0.2)
    yield ask
    server.terminate()
    server.wait(30)


def stored(orthanc, path):
    return json.loads(orthanc("/instances", path.read_bytes()))


def test_orthanc_stores_and_serves_what_we_derive(orthanc, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", phantoms.brain((32, 36, 8)).astype(np.int16))
    volume = read(source)
    result = volume.with_voxels(volume.voxels + np.float32(5), step=Step("denoise", {}, FACTS))
    write(result, tmp_path / "out", form="dicom")
    spread = np.full(volume.shape, 2.5, np.float32)
    write_uncertainty(
        replace(result, std=spread), tmp_path / "std.dcm", RunRecord.of_step(Step("denoise", facts=FACTS))
    )
    sent = [*source.iterdir(), *sorted((tmp_path / "out").iterdir()), tmp_path / "std.dcm"]
    answers = [stored(orthanc, path) for path in sent]
    assert {answer["Status"] for answer in answers} == {"Success"}
    # One patient, one study; the source, the result and its map as three series.
    assert len({answer["ParentStudy"] for answer in answers}) == 1
    assert len({answer["ParentSeries"] for answer in answers}) == 3
    for path, answer in zip(sent, answers, strict=True):
        assert orthanc(f"/instances/{answer['ID']}/file") == path.read_bytes()
    again = stored(orthanc, sent[-2])
    assert again["Status"] == "AlreadyStored"
    tags = json.loads(orthanc(f"/instances/{answers[-2]['ID']}/simplified-tags"))
    assert tags["SeriesDescription"] == pydicom.dcmread(sent[-2]).SeriesDescription == "medldm denoise RUO"
