"""What `hashlib` has of OpenSSL elsewhere: the server computes it."""


def _bytes(name, value):
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise TypeError(f"{name} is bytes, not {type(value).__name__}") from None


def pbkdf2_hmac(hash_name, password, salt, iterations, dklen=None):
    """Derives a key from a password: PBKDF2 with HMAC (RFC 8018)."""
    if not isinstance(hash_name, str):
        raise TypeError("hash_name is a str")
    name = hash_name.lower().replace("-", "").replace("_", "")
    sizes = {"sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}
    if name not in sizes:
        raise ValueError(f"unsupported hash type {hash_name}: pbkdf2_hmac has {', '.join(sizes)}")
    if iterations < 1:
        raise ValueError("iteration value must be greater than 0.")
    if dklen is None:
        dklen = sizes[name]
    if dklen < 1:
        raise ValueError("key length must be greater than 0.")
    return _derive({"op": "pbkdf2", "name": name, "iterations": iterations, "length": dklen}, password, salt)


def scrypt(password, *, salt, n, r, p, maxmem=0, dklen=64):
    """Derives a key from a password: scrypt (RFC 7914)."""
    if n < 2 or n & (n - 1):
        raise ValueError("n is required and must be a power of 2")
    if r < 1 or p < 1 or not 1 <= dklen:
        raise ValueError("r, p and dklen are positive")
    # As OpenSSL has it.
    if 128 * r * (n + p + 2) > (maxmem or 32 << 20) + 128 * r * 34:
        raise ValueError("memory limit exceeded: set maxmem")
    return _derive({"op": "scrypt", "n": n, "r": r, "p": p, "length": dklen}, password, salt)


def _derive(message, password, salt):
    password, salt = _bytes("password", password), _bytes("salt", salt)
    line, key = _ask({**message, "split": len(password)}, password + salt)
    if "error" in line:
        raise ValueError(line["error"]["message"])
    return key
