"""What a program that was written for CompreFace does; run by the Python of an environment that has its SDK."""

import json
import sys

from compreface import CompreFace
from compreface.service import DetectionService, RecognitionService, VerificationService


def main(url: str, port: str, keys: dict, first: list, second: list, stranger: str) -> dict:
    client = CompreFace(url, port, {"limit": 0, "det_prob_threshold": 0.5, "prediction_count": 1, "status": "true"})
    recognition: RecognitionService = client.init_face_recognition(keys["recognition"])
    detection: DetectionService = client.init_face_detection(keys["detection"])
    verification: VerificationService = client.init_face_verification(keys["verification"])
    subjects, collection = recognition.get_subjects(), recognition.get_face_collection()
    with open(second[1], "rb") as file:
        as_bytes = file.read()
    said = {
        "added": subjects.add("Hans"),
        "again": subjects.add("Hans"),
        "renamed": subjects.update("Hans", "Hans Blix"),
        "enrolled": [collection.add(image_path=path, subject="Hans Blix") for path in first[:2]],
        "implicit": collection.add(image_path=second[0], subject="Serena", options={"det_prob_threshold": 0.6}),
        "names": subjects.list(),
        "listed": collection.list(),
        "recognised": recognition.recognize(image_path=first[2]),
        "options": recognition.recognize(
            image_path=as_bytes,
            options={"limit": 1, "prediction_count": 2, "face_plugins": "calculator,mask,landmarks"},
        ),
        "stranger": recognition.recognize(image_path=stranger),
        "detected": detection.detect(image_path=first[2], options={"face_plugins": "landmarks,age,gender"}),
        "same": verification.verify(source_image_path=first[0], target_image_path=first[3]),
        "different": verification.verify(source_image_path=first[0], target_image_path=second[1]),
    }
    image = said["enrolled"][0]["image_id"]
    said["verified"] = collection.verify(image_path=first[3], image_id=image)
    said["not verified"] = collection.verify(image_path=second[1], image_id=image)
    said["deleted"] = collection.delete(image_id=image)
    said["not there"] = collection.delete(image_id=image)
    said["deleted all"] = collection.delete_all("Serena")
    said["subject deleted"] = subjects.delete("Hans Blix")
    said["rest"] = subjects.list()
    subjects.add("Ada")
    said["all deleted"] = subjects.delete_all()
    said["wrong key"] = client.init_face_recognition("6b135f5b-a365-4522-b1f1-4c9ac2dd0728").get_subjects().list()
    said["wrong service"] = client.init_face_recognition(keys["detection"]).recognize(image_path=first[2])
    return said


if __name__ == "__main__":
    json.dump(main(*json.load(sys.stdin)), sys.stdout)
