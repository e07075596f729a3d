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

  # Gives the value.
  def set(key, value)
    ask({ op: "kv_set", key: Wws::Wire.text(key), value: Wws::Wire.text(value) })
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

  def [](key) = get(key)

  def []=(key, value)
    set(key, value)
  end
end
