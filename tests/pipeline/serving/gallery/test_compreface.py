"""CompreFace's paths, parameters, statuses and shapes, so that its clients need not change."""

from __future__ import annotations

import re
from typing import Any

import httpx
import numpy as np
import pytest

from pipeline.serving.gallery.compreface_shapes import similarity
from tests.support.gallery import Api, base64_of, drawing, likeness

RED, GREEN, BLUE, GREY, DARK = (200, 20, 30), (30, 200, 40), (20, 30, 200), (150, 150, 150), (60, 60, 60)
FACES, RECOGNIZE = "/v1/recognition/faces", "/v1/recognition/recognize"


def add(gallery: Api, subject: str, colour: tuple[int, int, int]) -> str:
    answer = gallery.ask("POST", f"{FACES}?subject={subject}", files={"file": ("a.png", drawing(colour))})
    assert answer.status_code == 201, answer.text
    assert answer.json()["subject"] == subject
    return str(answer.json()["image_id"])


def look(gallery: Api, *colours: tuple[int, int, int], query: str = "", path: str = RECOGNIZE) -> list[dict[str, Any]]:
    answer = gallery.ask("POST", path + query, files={"file": ("a.png", drawing(*colours))})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["result"])


def refused(answer: httpx.Response, status: int, code: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"message", "code"}
    assert answer.json()["code"] == code
    return str(answer.json()["message"])


def test_subjects_come_are_renamed_and_go(gallery: Api) -> None:
    path = "/v1/recognition/subjects"
    added = gallery.ask("POST", path, json={"subject": "Ada Lovelace"})
    assert (added.status_code, added.json()) == (201, {"subject": "Ada Lovelace"})
    assert gallery.ask("GET", path).json() == {"subjects": ["Ada Lovelace"]}
    assert gallery.ask("GET", path + "/").json() == {"subjects": ["Ada Lovelace"]}
    assert gallery.ask("PUT", f"{path}/Ada Lovelace", json={"subject": "Ada"}).json() == {"updated": True}
    assert gallery.ask("DELETE", f"{path}/Ada").json() == {"subject": "Ada"}
    assert gallery.ask("GET", path).json() == {"subjects": []}


def test_a_subject_that_gets_the_name_of_another_becomes_that_one(gallery: Api) -> None:
    add(gallery, "ada", RED)
    add(gallery, "countess", GREEN)
    assert gallery.ask("PUT", "/v1/recognition/subjects/countess", json={"subject": "ada"}).json() == {"updated": True}
    assert gallery.ask("GET", "/v1/recognition/subjects").json() == {"subjects": ["ada"]}
    assert gallery.ask("GET", FACES).json()["total_elements"] == 2
    assert gallery.ask("PUT", "/v1/recognition/subjects/ada", json={"subject": "ada"}).json() == {"updated": True}


def test_all_subjects_go_at_once(gallery: Api) -> None:
    add(gallery, "ada", RED)
    add(gallery, "bob", GREEN)
    assert gallery.ask("DELETE", "/v1/recognition/subjects").json() == {"deleted": 2}
    assert gallery.ask("GET", FACES).json()["faces"] == []


def test_subjects_are_refused_as_compreface_does(gallery: Api) -> None:
    path = "/v1/recognition/subjects"
    gallery.ask("POST", path, json={"subject": "ada"})
    refused(gallery.ask("POST", path, json={"subject": "ada"}), 400, 43)
    for method, more in (("PUT", {"json": {"subject": "eve"}}), ("DELETE", {})):
        assert "nobody" in refused(gallery.ask(method, f"{path}/nobody", **more), 404, 42)
    for name in ("", " ", "a/b", "a\\b", "..", "x" * 300, None, 7):
        refused(gallery.ask("POST", path, json={"subject": name}), 400, 26)
    refused(gallery.ask("POST", path, content=b"{", headers={"Content-Type": "application/json"}), 400, 26)


@pytest.mark.parametrize("kind", ["multipart", "base64"])
def test_a_face_is_added_and_recognised(gallery: Api, kind: str) -> None:
    def sent(colour: tuple[int, int, int]) -> dict[str, Any]:
        data = drawing(colour)
        return {"files": {"file": ("a.png", data)}} if kind == "multipart" else {"json": {"file": base64_of(data)}}

    added = gallery.ask("POST", f"{FACES}?subject=ada&det_prob_threshold=0.8", **sent(RED))
    assert added.status_code == 201
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", added.json()["image_id"])
    (found,) = gallery.ask("POST", RECOGNIZE, **sent(RED)).json()["result"]
    assert found.keys() == {"box", "subjects"}
    assert found["box"] == {"probability": 0.9, "x_min": 0, "y_min": 0, "x_max": 32, "y_max": 32}
    assert found["subjects"][0]["subject"] == "ada"
    assert found["subjects"][0]["similarity"] > 0.99
    (stranger,) = gallery.ask("POST", RECOGNIZE, **sent(GREEN)).json()["result"]
    assert stranger["subjects"][0]["similarity"] < 0.5


def test_parameters_choose_faces_predictions_and_plugins(gallery: Api) -> None:
    for name, colour in (("ada", RED), ("bob", GREEN), ("cyd", BLUE)):
        add(gallery, name, colour)
    assert len(look(gallery, RED, GREEN)) == 2
    (found,) = look(gallery, RED, GREEN, query="?&limit=1&prediction_count=2&status=True&detect_faces=true")
    assert found["subjects"][0]["subject"] == "ada"
    assert len(found["subjects"]) == 2
    assert found["execution_time"]["detector"] >= 0
    (rich,) = look(gallery, RED, query="?face_plugins=landmarks,mask,calculator,age,gender,pose,nonsense")
    assert rich.keys() == {"box", "subjects", "landmarks", "mask", "embedding"}
    assert len(rich["landmarks"]) == 5
    assert rich["mask"] == {"probability": 0.98, "value": "without_mask"}
    assert np.allclose(rich["embedding"], likeness(RED), atol=1e-6)


def test_status_names_what_computed(gallery: Api) -> None:
    answer = gallery.ask("POST", f"{RECOGNIZE}?status=true", files={"file": ("a.png", drawing(RED))}).json()
    assert answer["plugins_versions"] == {"detector": "omote.detect", "calculator": "omote.mobilefacenet"}


def test_nobody_is_in_an_empty_collection(gallery: Api) -> None:
    assert look(gallery, RED)[0]["subjects"] == []


def test_a_subject_between_two_is_not_accepted(gallery: Api) -> None:
    """CompreFace has no word for it, so the similarity says it: below the half that its clients ask for."""
    add(gallery, "ada", RED)
    add(gallery, "twin", RED)
    assert all(each["similarity"] < 0.5 for each in look(gallery, RED, query="?prediction_count=2")[0]["subjects"])


def test_similarity_is_half_at_the_threshold_and_grows_with_the_cosine() -> None:
    assert similarity(0.4, 0.4, accepted=True) == 0.5
    assert similarity(1.0, 0.4, accepted=True) == pytest.approx(1, abs=1e-3)
    assert similarity(-1.0, 0.4, accepted=False) == pytest.approx(0, abs=1e-3)
    assert similarity(0.9, 0.4, accepted=False) < 0.5
    scale = [similarity(cosine, 0.3, accepted=cosine >= 0.3) for cosine in np.linspace(-1, 1, 50)]
    assert scale == sorted(scale)


def test_faces_are_listed_by_page_and_subject(gallery: Api) -> None:
    made = {add(gallery, name, colour) for name, colour in (("ada", RED), ("ada", GREEN), ("bob", BLUE))}
    whole = gallery.ask("GET", FACES).json()
    assert {each["image_id"] for each in whole["faces"]} == made
    assert (whole["page_number"], whole["page_size"], whole["total_pages"], whole["total_elements"]) == (0, 20, 1, 3)
    pages = [gallery.ask("GET", f"{FACES}?page={page}&size=2").json() for page in range(3)]
    assert [len(page["faces"]) for page in pages] == [2, 1, 0]
    assert pages[0]["total_pages"] == 2
    assert {each["image_id"] for page in pages for each in page["faces"]} == made
    assert gallery.ask("GET", f"{FACES}?subject=bob").json()["total_elements"] == 1
    assert gallery.ask("GET", f"{FACES}?subject=nobody").json()["faces"] == []


def test_negative_anchors_are_no_faces_of_a_collection(gallery: Api) -> None:
    add(gallery, "ada", RED)
    assert gallery.ask("POST", "/v2/subjects/ada/not-me", files={"file": drawing(GREEN)}).status_code == 201
    assert gallery.ask("GET", FACES).json()["total_elements"] == 1


def test_faces_go_one_by_one_some_at_once_and_by_subject(gallery: Api) -> None:
    first, second, third = (add(gallery, "ada", colour) for colour in (RED, GREEN, BLUE))
    assert gallery.ask("DELETE", f"{FACES}/{first}").json() == {"image_id": first, "subject": "ada"}
    refused(gallery.ask("DELETE", f"{FACES}/{first}"), 404, 44)
    some = gallery.ask("POST", f"{FACES}/delete", json=[second, first, second])
    assert some.json() == [{"image_id": second, "subject": "ada"}]
    assert gallery.ask("DELETE", f"{FACES}?subject=ada").json() == {"deleted": 1}
    assert gallery.ask("DELETE", f"{FACES}?subject=ada").json() == {"deleted": 0}
    assert third
    add(gallery, "bob", RED)
    assert gallery.ask("DELETE", FACES).json() == {"deleted": 1}


def test_the_picture_of_a_face_is_shown_where_it_was_kept(gallery: Api) -> None:
    policy = {"keep_photos": True}
    assert gallery.ask("PUT", "/v2/policies", "admin", json=policy).status_code == 200
    face = add(gallery, "ada", RED)
    shown = gallery.ask("GET", f"{FACES}/{face}/img")
    assert shown.headers["content-type"] == "image/jpeg"
    static = gallery.bare("GET", f"/api/v1/static/{gallery.key('reader')}/images/{face}")
    assert static.content == shown.content
    assert gallery.ask("GET", f"{FACES}/unknown/img").content == b""
    refused(gallery.bare("GET", f"/api/v1/static/{gallery.key('auditor')}/images/{face}"), 403, 10)
    wrong = gallery.bare("GET", f"/api/v1/static/omk_0/images/{face}")
    refused(wrong, 401, 20)


def test_a_picture_is_held_against_one_face(gallery: Api) -> None:
    face = add(gallery, "ada", RED)
    path = f"{FACES}/{face}/verify"
    assert look(gallery, RED, path=path)[0]["similarity"] > 0.99
    assert look(gallery, GREEN, path=path)[0]["similarity"] < 0.5
    refused(gallery.ask("POST", f"{FACES}/unknown/verify", files={"file": ("a.png", drawing(RED))}), 404, 44)


def test_faces_are_detected(gallery: Api) -> None:
    found = look(gallery, RED, DARK, path="/v1/detection/detect", query="?limit=2&face_plugins=landmarks")
    assert len(found) == 2
    assert found[0].keys() == {"box", "landmarks"}
    vectors = look(gallery, RED, path="/v1/detection/detect", query="?face_plugins=calculator")
    assert len(vectors[0]["embedding"]) == 512


def test_two_pictures_are_compared(gallery: Api) -> None:
    path = "/v1/verification/verify"
    sent = {"source_image": ("a.png", drawing(RED)), "target_image": ("b.png", drawing(RED, GREEN))}
    (found,) = gallery.ask("POST", path, files=sent).json()["result"]
    assert found.keys() == {"source_image_face", "face_matches"}
    assert [each["similarity"] > 0.5 for each in found["face_matches"]] == [True, False]
    same = {"source_image": base64_of(drawing(BLUE)), "target_image": base64_of(drawing(BLUE))}
    assert gallery.ask("POST", path, json=same).json()["result"][0]["face_matches"][0]["similarity"] > 0.99
    refused(gallery.ask("POST", path, files={**sent, "source_image": ("a.png", drawing(RED, BLUE))}), 400, 31)
    refused(gallery.ask("POST", path, files={"source_image": ("a.png", drawing(RED))}), 400, 34)


def test_vectors_serve_instead_of_pictures(gallery: Api) -> None:
    face = add(gallery, "ada", RED)
    red, green = likeness(RED).tolist(), likeness(GREEN).tolist()
    found = gallery.ask("POST", "/v1/recognition/embeddings/recognize", json={"embeddings": [red, green]}).json()
    assert [each["similarities"][0]["similarity"] > 0.5 for each in found["result"]] == [True, False]
    path = f"/v1/recognition/embeddings/faces/{face}/verify"
    held = gallery.ask("POST", path, json={"embeddings": [red, green]}).json()["result"]
    assert [each["similarity"] > 0.5 for each in held] == [True, False]
    pair = {"source": red, "targets": [red, green]}
    both = gallery.ask("POST", "/v1/verification/embeddings/verify", json=pair).json()["result"]
    assert [each["similarity"] > 0.5 for each in both] == [True, False]
    assert np.allclose(both[1]["embedding"], green)
    for wrong in ([[1.0] * 511], [[0.0] * 512], [red, [1.0]], [[1e300] * 512]):
        refused(gallery.ask("POST", "/v1/recognition/embeddings/recognize", json={"embeddings": wrong}), 400, 36)


def test_pictures_are_refused_as_compreface_does(gallery: Api) -> None:
    def sent(data: bytes, path: str = f"{FACES}?subject=ada") -> httpx.Response:
        return gallery.ask("POST", path, files={"file": ("a.png", data)})

    before = gallery.written()
    assert refused(sent(drawing(), RECOGNIZE), 400, 28) == "No face is found in the given image"
    refused(sent(drawing()), 400, 28)
    refused(sent(drawing(RED, GREEN)), 400, 31)
    refused(sent(drawing(DARK)), 400, 21)
    refused(sent(b"text"), 400, 21)
    refused(sent(b""), 400, 21)
    assert "file" in refused(gallery.ask("POST", RECOGNIZE, files={"picture": ("a.png", b"")}), 400, 34)
    assert "subject" in refused(sent(drawing(RED), FACES), 400, 33)
    refused(sent(drawing(RED), f"{RECOGNIZE}?limit=-1"), 400, 26)
    refused(sent(drawing(RED), f"{RECOGNIZE}?det_prob_threshold=2"), 400, 26)
    refused(gallery.ask("POST", RECOGNIZE, json={"file": "%%%"}), 400, 21)
    refused(gallery.ask("POST", RECOGNIZE, content=b"x", headers={"content-type": "text/plain"}), 415, 0)
    assert gallery.written() == before


def test_keys_are_refused_with_its_numbers(gallery: Api) -> None:
    path = "/api/v1/recognition/subjects"
    refused(gallery.bare("GET", path), 401, 20)
    refused(gallery.bare("GET", path, headers={"x-api-key": "6b135f5b-a365-4522-b1f1-4c9ac2dd0728"}), 401, 10)
    only = gallery.key("reader", services=("detection",))
    assert "detection" in refused(gallery.bare("GET", path, headers={"x-api-key": only}), 403, 10)
    refused(gallery.ask("POST", "/v1/recognition/subjects", "reader", json={"subject": "ada"}), 403, 10)


def test_jpeg_and_others_are_read_too(gallery: Api) -> None:
    add(gallery, "ada", RED)
    for kind in ("JPEG", "WEBP", "BMP"):
        data = drawing(RED, kind=kind)
        found = gallery.ask("POST", RECOGNIZE, files={"file": ("a", data)}).json()["result"]
        assert found[0]["subjects"][0]["subject"] == "ada", kind


def test_who_may_only_detect_looks_for_nobody(gallery: Api) -> None:
    add(gallery, "ada", RED)
    log = gallery.service.desk.log
    before, headers = log.head().seq, {"x-api-key": gallery.key("reader", services=("detection",))}
    answer = gallery.bare(
        "POST", "/api/v1/detection/detect?face_plugins=calculator", files={"file": drawing(RED)}, headers=headers
    )
    (face,) = answer.json()["result"]
    assert np.allclose(face["embedding"], likeness(RED), atol=1e-6)
    assert [(entry.action, entry.subject, entry.count) for entry in log.read(before)] == [("detect", "", 1)]
