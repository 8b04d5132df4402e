"""CompreFace's own SDK, unchanged, in an environment of its own, speaks to our API over a real network, with faces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
import pytest
from pydantic import SecretStr

from pipeline.edges.galleries import Galleries
from pipeline.edges.redis_api_keys import ApiKeys
from pipeline.gallery.faces import Faces
from pipeline.gallery.keys import Keys
from pipeline.gallery.protocol import MODEL
from pipeline.graph import load
from pipeline.servers.process import free_ports
from pipeline.serving.gallery.access import Access
from pipeline.serving.gallery.app import gallery_api, server
from pipeline.serving.gallery.settings import GallerySettings
from tests.support.requirements import missing

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "tests" / "support" / "compreface_client.py"
NEEDS = ("compreface-sdk==0.6.0", "requests<3", "urllib3<2")


@pytest.fixture(scope="session")
def sdk() -> Path:
    """The Python of an environment with CompreFace's SDK; it is made once and kept in the cache."""
    home = Path(os.environ.get("OMOTE_CACHE") or Path.home() / ".cache" / "omote") / "compreface-sdk-0.6.0"
    if not home.is_dir():
        making = home.with_name(f"{home.name}.{os.getpid()}")
        subprocess.run([sys.executable, "-m", "venv", making], check=True, capture_output=True)
        install = [making / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *NEEDS]
        done = subprocess.run(install, check=False, capture_output=True, text=True, timeout=120)
        if done.returncode:
            shutil.rmtree(making)
            missing(f"CompreFace's SDK cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}")
        making.rename(home)
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def photos(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Four photos of each of three people."""
    folder, found = tmp_path_factory.mktemp("photos"), {}
    with zipfile.ZipFile(data / "faces" / "lfw_train128.zip") as archive:
        for person in ("Hans_Blix", "Serena_Williams", "Vladimir_Putin"):
            names = sorted(name for name in archive.namelist() if name.rpartition("_")[0] == person)[:4]
            for name in names:
                image = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR)
                cv2.imwrite(str(folder / Path(name).name), cv2.resize(image, None, fx=2, fy=2))
            found[person] = [str(folder / Path(name).name) for name in names]
    return found


@pytest.fixture
def served(redis_url: str, weights_ready: None) -> Iterator[tuple[int, dict[str, str]]]:
    """The port of the API over real nets, and a key to each service."""
    del weights_ready
    url, namespace = SecretStr(redis_url), f"t{uuid4().hex[:10]}"
    galleries = Galleries(url, Keys.new(), Faces(lambda: load(ROOT / "deploy" / "graphs" / "faces.yaml"), MODEL))
    access = Access(ApiKeys(url))
    made = {
        service: access.keys.new(service, "operator", namespace=namespace, services=[service])
        for service in ("recognition", "detection", "verification")
    }
    settings = GallerySettings(port=free_ports(1)[0])
    running = server(gallery_api(galleries.of, access, settings), settings)
    thread = threading.Thread(target=running.run)
    thread.start()
    until = time.monotonic() + 20
    while not running.started and time.monotonic() < until:
        time.sleep(0.02)
    yield settings.port, {service: secret for service, (secret, _) in made.items()}
    running.should_exit = True
    thread.join()
    for _, key in made.values():
        access.keys.revoke(key.id)
    access.keys.close()
    galleries.close()


def test_its_sdk_works_unchanged(sdk: Path, photos: dict[str, list[str]], served: tuple[int, dict[str, str]]) -> None:
    port, keys = served
    hans, serena, vladimir = photos.values()
    given = json.dumps(["http://127.0.0.1", str(port), keys, hans, serena, vladimir[0]])
    done = subprocess.run([sdk, CLIENT], input=given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))


def check(said: dict[str, Any]) -> None:
    assert said["added"] == {"subject": "Hans"}
    assert said["again"]["code"] == 43
    assert said["renamed"] == {"updated": True}
    assert {each["subject"] for each in said["enrolled"]} == {"Hans Blix"}
    assert said["names"] == {"subjects": ["Hans Blix", "Serena"]}
    assert said["listed"]["total_elements"] == 3
    (best,) = said["recognised"]["result"][0]["subjects"]
    assert best["subject"] == "Hans Blix"
    assert best["similarity"] > 0.5
    assert "plugins_versions" in said["recognised"]
    (face,) = said["options"]["result"]
    assert [each["subject"] for each in face["subjects"]] == ["Serena", "Hans Blix"]
    assert (len(face["embedding"]), len(face["landmarks"]), face["mask"]["value"]) == (512, 5, "without_mask")
    assert said["stranger"]["result"][0]["subjects"][0]["similarity"] < 0.5
    assert said["detected"]["result"][0].keys() == {"box", "landmarks"}
    assert said["same"]["result"][0]["face_matches"][0]["similarity"] > 0.5
    assert said["different"]["result"][0]["face_matches"][0]["similarity"] < 0.5
    assert said["verified"]["result"][0]["similarity"] > 0.5 > said["not verified"]["result"][0]["similarity"]
    assert said["deleted"]["subject"] == "Hans Blix"
    assert said["not there"]["code"] == 44
    assert said["deleted all"] == {"deleted": 1}
    assert said["subject deleted"] == {"subject": "Hans Blix"}
    assert said["rest"] == {"subjects": []}
    assert said["all deleted"] == {"deleted": 1}
    assert said["wrong key"]["code"] == 10
    assert said["wrong service"]["code"] == 10
