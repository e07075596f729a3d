# What the polyfill of 1.x gives to workers, in short.
import base64
import json
import sys


class Request:
    def __init__(self, text):
        self.__dict__.update(text)


class Response:
    def __init__(self, body):
        self.body = body
        self.status_code = 200
        self.headers = {}

    def to_json(self):
        is_bytes = isinstance(self.body, bytes)
        data = base64.b64encode(self.body).decode() if is_bytes else str(self.body)
        return json.dumps({"data": data, "headers": self.headers, "status": self.status_code, "kv": Cache.kv, "base64": is_bytes})


class Cache:
    kv = {}

    @classmethod
    def get(cls, key):
        return cls.kv.get(key)

    @classmethod
    def set(cls, key, value):
        cls.kv[key] = value
