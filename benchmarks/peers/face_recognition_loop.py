"""The loop of face_recognition's own examples: read a frame, locate, encode. Prints seconds and faces as JSON."""

import json
import sys
import time

import av
import face_recognition

path, frames = sys.argv[1], int(sys.argv[2])
pictures = (frame.to_ndarray(format="rgb24") for frame in av.open(path).decode(video=0))
face_recognition.face_locations(next(pictures))

since, seen, faces = time.perf_counter(), 0, 0
for picture in pictures:
    places = face_recognition.face_locations(picture)
    faces += len(face_recognition.face_encodings(picture, places))
    seen += 1
    if seen == frames:
        break
print(json.dumps({"frames": seen, "faces": faces, "seconds": time.perf_counter() - since}))
