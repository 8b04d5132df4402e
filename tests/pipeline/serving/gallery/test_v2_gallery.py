"""The second interface: people are enrolled, found, named, merged, forgotten; and all of it is logged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from pipeline.gallery.keys import Keys
from pipeline.gallery.subjects import UnknownTrack
from tests.support.api_client import problem
from tests.support.gallery import Api, base64_of, drawing, likeness

RED, GREEN, BLUE, DARK = (200, 20, 30), (30, 200, 40), (20, 30, 200), (60, 60, 60)
DETECT = "/v2/faces/detect"
NAME = "Ada Lovelace"  # no hash and no signature has a space in it, and so none can hold this name by chance


def done(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def see(gallery: Api, *colours: tuple[int, int, int], query: str = "?recognize=1") -> Any:
    return done(gallery.ask("POST", DETECT + query, "reader", files={"file": drawing(*colours)}))


def unknown(gallery: Api, name: str, colour: tuple[int, int, int]) -> None:
    track = UnknownTrack(name, "lobby", likeness(colour), "mobilefacenet", 0.9, False, datetime.now(UTC))
    gallery.service.desk.tracks.keep(track, 3600)


def test_who_is_enrolled_is_found(gallery: Api) -> None:
    made = gallery.enrol("ada", RED)
    template = done(made, 201)
    assert template["subject"] == "ada"
    assert len(template["source_sha256"]) == 64
    assert made.headers["location"] == f"/api/v2/faces/{template['id']}"
    seen = see(gallery, RED, GREEN, DARK)
    assert len(seen["faces"]) == 3
    assert [each["decision"] for each in seen["identities"]] == ["known", "unknown", "low_quality"]
    known = seen["identities"][0]
    assert (known["subject"], known["candidates"][0]["subject"]) == ("ada", "ada")
    assert known["score"] > known["threshold"] == 0.4
    assert "vector" not in known


def test_faces_are_found_without_saying_who(gallery: Api) -> None:
    seen = see(gallery, RED, DARK, query="?most_faces=2")
    assert "identities" not in seen
    assert [face["reasons"] for face in seen["faces"]] == [[], ["blurred"]]
    assert seen["faces"][0]["box"] == [0, 0, 32, 32]
    assert see(gallery, query="")["faces"] == []


def test_vectors_are_given_only_where_they_are_asked_for(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    (known,) = see(gallery, RED, query="?recognize=1&vectors=1&top=3")["identities"]
    assert np.allclose(known["vector"], likeness(RED), atol=1e-6)


def test_vectors_are_enrolled_found_and_verified(gallery: Api) -> None:
    red, green = likeness(RED).tolist(), likeness(GREEN).tolist()
    given = {"vectors": [red], "model": "mobilefacenet"}
    made = done(gallery.ask("POST", "/v2/subjects/ada/vectors", json={**given, "quality": 0.5}), 201)
    assert made["faces"][0]["quality"] == 0.5
    both = {"vectors": [red, green], "model": "mobilefacenet"}
    found = done(gallery.ask("POST", "/v2/vectors/search", "reader", json=both))["identities"]
    assert [each["decision"] for each in found] == ["known", "unknown"]
    assert "face" not in found[0]
    claim = {"subject": "ada", **both}
    held = done(gallery.ask("POST", "/v2/vectors/verify", "reader", json=claim))["identities"]
    assert [each["decision"] for each in held] == ["known", "unknown"]


def test_a_picture_is_held_against_a_subject(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    answer = gallery.ask("POST", "/v2/subjects/ada/verify", "reader", json={"file": base64_of(drawing(RED, GREEN))})
    assert [each["decision"] for each in done(answer)["identities"]] == ["known", "unknown"]


def test_subjects_have_pages_details_and_names(gallery: Api) -> None:
    for name in ("cyd", "ada", "bob"):
        added = gallery.ask("POST", "/v2/subjects", json={"id": name, "metadata": {"floor": 3}, "consent": "given"})
        assert done(added, 201)["metadata"] == {"floor": 3}
        assert added.headers["location"] == f"/api/v2/subjects/{name}"
    first = done(gallery.ask("GET", "/v2/subjects?limit=2", "reader"))
    assert ([each["id"] for each in first["subjects"]], first["next"]) == (["ada", "bob"], "bob")
    second = done(gallery.ask("GET", "/v2/subjects?limit=2&after=bob", "reader"))
    assert ([each["id"] for each in second["subjects"]], second["next"]) == (["cyd"], None)
    later = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    changed = done(gallery.ask("PATCH", "/v2/subjects/ada", json={"id": "ada.king", "expires": later}))
    assert (changed["id"], changed["metadata"]) == ("ada.king", {"floor": 3})
    assert done(gallery.ask("GET", "/v2/subjects/ada.king"))["expires"][:10] == later[:10]
    assert done(gallery.ask("PATCH", "/v2/subjects/ada.king", json={"expires": None}))["expires"] is None


def test_names_of_any_language_stand_in_addresses(gallery: Api) -> None:
    for name in ("Ада Лавлейс", "阿达", "a.b:c@d+e", "50%", "?#&", "O'Neil; drop"):
        quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        assert gallery.ask("POST", "/v2/subjects", json={"id": name}).status_code == 201
        assert done(gallery.ask("GET", f"/v2/subjects/{quoted}"))["id"] == name


def test_who_withdraws_consent_is_not_matched(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    assert see(gallery, RED)["identities"][0]["decision"] == "known"
    done(gallery.ask("PATCH", "/v2/subjects/ada", json={"consent": "withdrawn"}))
    assert see(gallery, RED)["identities"][0]["decision"] == "unknown"


def test_faces_of_a_subject_have_pages_and_go(gallery: Api) -> None:
    made = sorted(gallery.enrol("ada", colour).json()["id"] for colour in (RED, GREEN, BLUE))
    first = done(gallery.ask("GET", "/v2/subjects/ada/faces?limit=2"))
    assert ([each["id"] for each in first["faces"]], first["next"]) == (made[:2], made[1])
    rest = done(gallery.ask("GET", f"/v2/subjects/ada/faces?after={first['next']}"))
    assert ([each["id"] for each in rest["faces"]], rest["next"]) == (made[2:], None)
    assert done(gallery.ask("GET", f"/v2/faces/{made[0]}"))["id"] == made[0]
    assert done(gallery.ask("DELETE", f"/v2/faces/{made[0]}"))["id"] == made[0]
    assert gallery.ask("GET", f"/v2/faces/{made[0]}").status_code == 404


def test_photos_are_kept_only_if_asked_for(gallery: Api) -> None:
    plain = gallery.enrol("ada", RED).json()["id"]
    assert gallery.ask("GET", f"/v2/faces/{plain}/photo").status_code == 404
    kept = gallery.ask("POST", "/v2/subjects/ada/faces?keep_photo=true", files={"file": drawing(GREEN)}).json()["id"]
    shown = gallery.ask("GET", f"/v2/faces/{kept}/photo")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.parametrize("kind", ["picture", "base64", "vector", "track"])
def test_who_is_not_the_subject_is_not_taken_for_them_again(gallery: Api, kind: str) -> None:
    gallery.enrol("ada", RED)
    unknown(gallery, "lobby:1:7", RED)
    sent: dict[str, dict[str, Any]] = {
        "picture": {"files": {"file": drawing(RED)}},
        "base64": {"json": {"file": base64_of(drawing(RED))}},
        "vector": {"json": {"vector": likeness(RED).tolist()}},
        "track": {"json": {"track": "lobby:1:7"}},
    }
    made = done(gallery.ask("POST", "/v2/subjects/ada/not-me", **sent[kind]), 201)
    assert made["negative"] is True
    assert see(gallery, RED)["identities"][0]["decision"] == "unknown"
    listed = done(gallery.ask("GET", "/v2/subjects/ada/negatives", "reader"))["faces"]
    assert [each["id"] for each in listed] == [made["id"]]
    done(gallery.ask("DELETE", f"/v2/faces/{made['id']}"))
    assert see(gallery, RED)["identities"][0]["decision"] == "known"


def test_a_face_that_is_somebody_elses_can_be_refused(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    twin = gallery.ask("POST", "/v2/subjects/eve/faces?refuse_twins=1", files={"file": drawing(RED)})
    assert twin.status_code == 409
    assert twin.json()["type"] == "/problems/gallery-duplicate"


def test_two_subjects_become_one(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    gallery.enrol("countess", GREEN)
    assert done(gallery.ask("POST", "/v2/subjects/merge", json={"source": "countess", "into": "ada"})) == {"moved": 1}
    assert [each["subject"] for each in see(gallery, RED, GREEN)["identities"]] == ["ada", "ada"]
    assert gallery.ask("GET", "/v2/subjects/countess").status_code == 404


def test_what_a_subject_lacks_is_told(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    found = done(gallery.ask("GET", "/v2/subjects/ada/coverage", "reader"))
    assert found["templates"] == 1
    assert found["lacks"]


def test_unknown_people_are_listed_named_and_ignored(gallery: Api) -> None:
    for number in range(3):
        unknown(gallery, f"lobby:1:{number}", RED)
    unknown(gallery, "lobby:1:9", GREEN)
    unknown(gallery, "lobby:1:10", BLUE)
    first = done(gallery.ask("GET", "/v2/unknowns/clusters?limit=2", "reader"))
    assert len(first["clusters"][0]["members"]) == 3
    rest = done(gallery.ask("GET", f"/v2/unknowns/clusters?after={first['next']}", "reader"))
    assert (len(rest["clusters"]), rest["next"]) == (1, None)
    path = "/v2/unknowns/clusters"
    named = gallery.ask("POST", f"{path}/{first['clusters'][0]['id']}/assign", json={"subject": "ada"})
    assert len(done(named, 201)["faces"]) == 3
    assert see(gallery, RED)["identities"][0]["subject"] == "ada"
    assert done(gallery.ask("POST", f"{path}/{rest['clusters'][0]['id']}/ignore"))["ignored"] == 1
    assert len(done(gallery.ask("GET", path))["clusters"]) == 1
    assert gallery.ask("POST", f"{path}/{rest['clusters'][0]['id']}/ignore").status_code == 404


def test_matches_are_listed_by_subject_stream_and_time(gallery: Api) -> None:
    answer = gallery.ask("GET", "/v2/matches?subject=ada&stream=lobby&from=2026-01-01T00:00:00Z&limit=5", "reader")
    assert done(answer) == {"matches": [], "next": None}


def test_why_somebody_was_recognised_is_told_until_they_are_forgotten(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    told = {
        **{"id": "d68c99a93902", "stream": "lobby", "epoch": 1, "seq": 6, "pts_ns": 0, "track_id": "lobby:1:1"},
        **{
            "kind": "match",
            "target": "ada",
            "method": "cosine_contributions",
            "score": 0.9,
            "caveat": "",
            "took_ms": 4.0,
        },
        **{
            "completeness_error": 0.0,
            "faithfulness": 0.3,
            "faithfulness_random": None,
            "synthetic_evidence_ratio": 0.0,
        },
    }
    gallery.service.desk.tracks.explain("d68c99a93902", "ada", told, 60)
    path = "/v2/explanations/d68c99a93902"
    assert done(gallery.ask("GET", path, "reader")) == {"record": "omote.explanation/1.0", **told}
    line = done(gallery.ask("GET", "/v2/audit?action=matches", "auditor"))["entries"][-1]
    assert line["subject"] == gallery.service.desk.store.pseudonym("ada")
    assert gallery.ask("GET", path, "auditor").status_code == 403
    gallery.ask("DELETE", "/v2/subjects/ada")
    assert gallery.ask("GET", path, "reader").status_code == 404


@pytest.mark.parametrize(
    ("path", "action"),
    [
        *(("/v2/faces/detect", "detect"), ("/v2/faces/detect?recognize=1", "search")),
        *(
            ("/v2/subjects/ada/verify", "verify"),
            ("/v2/subjects/ada/faces", "enrol"),
            ("/v2/subjects/ada/not-me", "not me"),
        ),
        *(("/v1/recognition/recognize", "search"), ("/v1/recognition/faces?subject=ada", "enrol")),
        *(("/v1/recognition/faces/x/verify", "verify"), ("/v1/detection/detect", "detect")),
        ("/v1/verification/verify", "compare"),
    ],
)
def test_a_picture_that_cannot_be_read_leaves_a_line_too(gallery: Api, path: str, action: str) -> None:
    log = gallery.service.desk.log
    before = log.head().seq
    names = ("source_image", "target_image") if action == "compare" else ("file",)
    assert gallery.ask("POST", path, files=dict.fromkeys(names, b"no picture")).status_code in {400, 422}
    assert [(entry.action, entry.outcome) for entry in log.read(before)] == [(action, "failed")]


def test_who_is_forgotten_is_gone_and_the_receipt_can_be_verified(gallery: Api) -> None:
    gallery.enrol(NAME, RED)
    erased = gallery.ask("DELETE", f"/v2/subjects/{NAME}")
    receipt = done(erased)["receipt"]
    assert receipt["removed"]["vectors"] == 1
    assert NAME not in erased.text
    assert see(gallery, RED)["identities"][0]["decision"] == "unknown"
    found = done(gallery.ask("GET", erased.headers["location"].removeprefix("/api"), "auditor"))
    assert (found["holds"], found["found"]) == (True, [])
    gallery.enrol(NAME, RED)
    again = done(gallery.ask("GET", f"/v2/erasures/{receipt['id']}", "auditor"))
    assert again["holds"] is False


def test_policies_are_read_and_changed(gallery: Api) -> None:
    policy = done(gallery.ask("GET", "/v2/policies", "auditor"))
    assert policy["limits"]["threshold"] == 0.4
    policy["limits"]["threshold"], policy["purposes"] = 0.5, ["access"]
    assert done(gallery.ask("PUT", "/v2/policies", "admin", json=policy)) == policy
    refused = gallery.ask("POST", DETECT, "reader", files={"file": drawing(RED)})
    assert refused.status_code == 403
    assert "without a purpose" in refused.json()["detail"]
    allowed = gallery.ask("POST", DETECT, "reader", files={"file": drawing(RED)}, headers={"X-Purpose": "access"})
    assert allowed.status_code == 200


def test_the_log_says_who_asked_what_and_why(gallery: Api) -> None:
    gallery.enrol(NAME, RED)
    gallery.ask("POST", DETECT, "reader", files={"file": drawing(RED)}, headers={"X-Purpose": "access control"})
    found = done(gallery.ask("GET", "/v2/audit?limit=1&action=enrol", "auditor"))
    assert [entry["actor"] for entry in found["entries"]] == ["operator"]
    (looked,) = done(gallery.ask("GET", "/v2/audit?action=detect", "auditor"))["entries"]
    assert (looked["actor"], looked["role"], looked["purpose"]) == ("reader", "reader", "access control")
    about = done(gallery.ask("GET", f"/v2/audit?subject={NAME}", "auditor"))["entries"]
    assert {entry["action"] for entry in about} == {"enrol"}
    first = done(gallery.ask("GET", "/v2/audit?limit=1", "auditor"))
    assert first["next"] == first["entries"][0]["seq"]
    assert NAME not in str(done(gallery.ask("GET", "/v2/audit?limit=1000", "auditor")))
    assert done(gallery.ask("GET", "/v2/audit/verify", "auditor")) == {"whole": True, "faults": []}


def test_a_gallery_too_small_to_calibrate_says_so(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    found = done(gallery.ask("POST", "/v2/calibrate", "admin", json={"promised_far": 0.01}))
    assert found["bare"]["suggestion"] is None
    assert found["bare"]["refusals"]
    drawn = gallery.ask("POST", "/v2/calibrate", "admin", json={}, headers={"Accept": "image/png"})
    assert drawn.headers["content-type"] == "image/png"
    assert drawn.content.startswith(b"\x89PNG")


def test_templates_are_made_anew_and_old_ones_dropped(gallery: Api) -> None:
    gallery.enrol("ada", RED)
    assert done(gallery.ask("POST", "/v2/reembed?model=mobilefacenet", "admin"))["there"] == 1
    assert gallery.ask("POST", "/v2/reembed?model=other", "admin").status_code == 404
    assert done(gallery.ask("DELETE", "/v2/reembed?model=other", "admin")) == {"dropped": 0}


def test_keys_are_made_listed_and_taken_back(gallery: Api) -> None:
    made = done(
        gallery.ask("POST", "/v2/keys", "admin", json={"name": "desk", "role": "reader", "purpose": "help"}), 201
    )
    number = made["key"]["id"]
    assert gallery.bare("GET", "/api/v2/subjects", headers={"x-api-key": made["secret"]}).status_code == 200
    listed = gallery.ask("GET", "/v2/keys", "admin")
    assert number in [key["id"] for key in done(listed)["keys"]]
    assert made["secret"] not in listed.text
    assert done(gallery.ask("DELETE", f"/v2/keys/{number}", "admin"))["id"] == number
    assert gallery.bare("GET", "/api/v2/subjects", headers={"x-api-key": made["secret"]}).status_code == 401
    assert gallery.ask("DELETE", f"/v2/keys/{number}", "admin").status_code == 404


def test_a_change_is_made_whole_or_not_at_all(gallery: Api) -> None:
    for name in ("ada", "bob"):
        done(gallery.ask("POST", "/v2/subjects", json={"id": name}), 201)
    before = done(gallery.ask("GET", "/v2/subjects/ada"))
    refused = gallery.ask("PATCH", "/v2/subjects/ada", json={"consent": "withdrawn", "id": "bob"})
    assert refused.status_code == 409
    assert done(gallery.ask("GET", "/v2/subjects/ada")) == before
    changed = done(gallery.ask("PATCH", "/v2/subjects/ada", json={"consent": "withdrawn", "id": "eve"}))
    assert (changed["id"], changed["consent"]) == ("eve", "withdrawn")
    assert gallery.ask("GET", "/v2/subjects/ada").status_code == 404


def test_what_other_keys_have_sealed_does_not_open_and_that_is_said(
    gallery: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = done(gallery.enrol("ada", RED), 201)["id"]
    monkeypatch.setattr(gallery.service.desk.store, "keys", Keys.new())
    shut = gallery.ask("GET", f"/v2/faces/{template}", "reader")
    problem(shut, 503, "/problems/gallery-shut")
    assert int(shut.headers["retry-after"]) > 0
    old = gallery.ask("GET", "/v1/recognition/faces", "reader")
    assert (old.status_code, old.json()["code"]) == (503, 41)
