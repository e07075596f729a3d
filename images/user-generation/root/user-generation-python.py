# The Python program of the article "Running Wasm Workers Server in Docker Desktop" (Wasm Labs, October 2023). The article's had no outgoing
# requests and no key/value store; this one asks and counts like the others.
import json


class User:
    def __init__(self, first_name, last_name, username, email):
        self.first_name, self.last_name, self.username, self.email = first_name, last_name, username, email

    def from_json(dict):
        return User(dict["first_name"], dict["last_name"], dict["username"], dict["email"])


def worker(request):
    answer = fetch("https://random-data-api.com/api/v2/users")
    user = User.from_json(answer.json())

    generated_users = int(Cache.get("generated_users_counter") or 0) + 1
    Cache.set("generated_users_counter", str(generated_users))

    res = Response(
        json.dumps({
            "user": user.__dict__,
            "some_file_contents": open("/tmp/file.txt").read(),
            "generated_users": generated_users,
        }, separators=(",", ":"))
    )
    res.headers["x-generated-by"] = "wasm-workers-server"
    return res
