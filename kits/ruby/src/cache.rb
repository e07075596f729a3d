# The worker's key/value namespace: `[data.kv]` in its TOML. Keys and values are text.
module Cache
  module_function

  # The value, or nil.
  def get(key)
    ask({ op: "kv_get", key: Wws::Wire.text(key) })&.fetch("value")
  rescue Wws::Error => e
    raise unless e.kind == "loading"

    Wws.log("Cache.get(#{key.inspect}) is nil where the worker is loaded: ask in `worker`", :warn)
    nil
  end

  # Gives the value. It is removed after `ttl` seconds, if they are given.
  def set(key, value, ttl: nil)
    ask({ op: "kv_set", key: Wws::Wire.text(key), value: Wws::Wire.text(value), **time(ttl) })
    value
  end

  def delete(key)
    ask({ op: "kv_delete", key: Wws::Wire.text(key) })
    nil
  end

  # A worker without a store keeps nothing.
  def ask(message)
    Wws::Channel.ask(message)[0]
  rescue Wws::Error => e
    raise unless e.kind == "no-store"
  end
  private_class_method :ask

  # Adds to a number in the store itself, so that no count is lost. Gives the sum.
  def increment(key, by = 1)
    Wws::Channel.ask({ op: "kv_increment", key: Wws::Wire.text(key), by: Integer(by) })[0]["value"]
  end

  # Sets a key at once if its value is `expected`, or if there is no such key and `expected` is nil. Gives whether it was.
  def compare_and_set(key, expected, value, ttl: nil)
    known = expected.nil? ? nil : Wws::Wire.text(expected)
    Wws::Channel.ask({ op: "kv_compare_and_set", key: Wws::Wire.text(key), expected: known, value: Wws::Wire.text(value), **time(ttl) })[0]["value"]
  end

  # The keys with a prefix in the order of their bytes, after the key `after`: at most `limit`. None is the end.
  def list(prefix = "", after: nil, limit: 1000)
    raise ArgumentError, "the limit must be 1 or more" unless limit >= 1

    from = after.nil? ? nil : Wws::Wire.text(after)
    Wws::Channel.ask({ op: "kv_list", prefix: Wws::Wire.text(prefix), after: from, limit: [Integer(limit), 1000].min })[0]["keys"]
  end

  def time(ttl)
    return {} if ttl.nil?
    raise ArgumentError, "the time to live must be a number of seconds above 0" unless ttl.positive?

    { ttl: Float(ttl) }
  end
  private_class_method :time

  def [](key) = get(key)

  def []=(key, value)
    set(key, value)
  end
end
