"""The loop a user writes with facenet-pytorch's MTCNN: read a frame, find the faces. Prints its figures as JSON."""

import json
import sys
import time

import av
import torch
from facenet_pytorch import MTCNN

path, frames = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(2)
mtcnn = MTCNN(keep_all=True, device="cuda" if torch.cuda.is_available() else "cpu")
pictures = (frame.to_image() for frame in av.open(path).decode(video=0))
mtcnn.detect(next(pictures), landmarks=True)  # the first call is slower

since, seen, faces = time.perf_counter(), 0, 0
for picture in pictures:
    boxes, _, _ = mtcnn.detect(picture, landmarks=True)
    faces += 0 if boxes is None else len(boxes)
    seen += 1
    if seen == frames:
        break
print(json.dumps({"frames": seen, "faces": faces, "seconds": time.perf_counter() - since}))
