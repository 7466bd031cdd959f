"""Posts a picture 100 times from 10 threads, and prints statuses and latency: what anybody would write against `/predict`.

    post_pictures.py URL PICTURE
"""

import collections
import concurrent.futures
import statistics
import sys
import time

import requests

url, path = sys.argv[1:]


def post(_):
    began = time.perf_counter()
    with open(path, "rb") as file:
        response = requests.post(url, files={"file": file}, timeout=60)
    return response.status_code, time.perf_counter() - began, response.json()


with concurrent.futures.ThreadPoolExecutor(10) as pool:
    answers = list(pool.map(post, range(100)))

latencies = [seconds * 1000 for _, seconds, _ in answers]
print("statuses:", dict(collections.Counter(status for status, _, _ in answers)))
print(f"mean: {statistics.mean(latencies):.1f} ms")
print(f"p95: {statistics.quantiles(latencies, n=20)[-1]:.1f} ms")
print("faces:", dict(collections.Counter(sum(found["kind"] == "face" for found in body["detections"]) for _, _, body in answers)))
