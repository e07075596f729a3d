# What a worker is asked.

module Wws
  # A Hash that is asked with Symbols and in any case as well: text keys, in lower case where they are headers' names.
  module Keys
    HEADERS = proc { |hash, key| (name = key.to_s.downcase) == key ? nil : hash.fetch(name, nil) }
    PARAMS = proc { |hash, key| key.is_a?(Symbol) ? hash.fetch(key.name, nil) : nil }

    module_function

    # Values of one name are joined by ", ", cookies by "; " (RFC 9113).
    def headers(list)
      all = Hash.new(&HEADERS)
      list.each do |name, value|
        before = all.fetch(name, nil)
        all[name] = before ? "#{before}#{name == "cookie" ? "; " : ", "}#{value}" : value
      end
      all.instance_variable_set(:@lines, list)
      all
    end

    # The lines that headers came from; of a name that was set anew, the new value.
    def lines(headers)
      came = headers.instance_variable_get(:@lines) or return headers
      joined = headers(came)
      headers.flat_map do |name, value|
        joined.fetch(name, nil) == value ? came.select { |line, _| line == name } : [[name, value]]
      end
    end

    def params(hash)
      hash.default_proc = PARAMS
      hash
    end
  end

  # Bytes as text where they are UTF-8; else as they are, in ASCII-8BIT.
  def self.text(bytes)
    text = bytes.frozen? ? bytes.dup : bytes
    text.force_encoding(Encoding::UTF_8)
    text.valid_encoding? ? text : text.force_encoding(Encoding::BINARY)
  end
end

# An HTTP request.
class Request
  include Wws::Content

  # The full URL, as a String.
  attr_reader :url
  # "GET", "POST", ...
  attr_reader :method
  # Each header line, in order: [[name, value], ...]. Names are in lower case.
  attr_reader :header_list
  # Parameters of the route: { "id" => "7" } for `[id].rb`.
  attr_reader :params

  def initialize(url, method = "GET", headers = {}, body = "", params = {})
    @url = url
    @method = method
    @header_list = headers.to_a
    @content = body
    @params = Wws::Keys.params(params || {})
  end

  # Headers: { "accept" => "text/html" }, asked in any case. Lines of one name are joined by ", ", cookies by "; ".
  def headers
    @headers ||= Wws::Keys.headers(@header_list)
  end

  # All lines of one name.
  def header_values(name)
    name = name.downcase
    @header_list.filter_map { |line, value| value if line == name }
  end

  # The URL's path, as it was sent.
  def path
    @url[%r{\A[a-z]+://[^/?#]*([^?#]*)}, 1]
  end

  # The decoded query: { "name" => "value" }; of a name that comes twice, the last.
  def query
    @query ||= Wws::Keys.params(query_list.to_h)
  end

  # The decoded query: [[name, value], ...].
  def query_list
    (@url[/\?([^#]*)/, 1] || "").split("&").filter_map do |pair|
      name, value = pair.split("=", 2)
      [Wws.decode(name), Wws.decode(value || "")] if name
    end
  end

  # The body's JSON.
  def json
    JSON.parse(body)
  end
end

# Undoes what forms and queries do to a text.
def Wws.decode(text)
  plain = text.tr("+", " ").b
  plain.gsub!(/%\h\h/) { |code| code[1, 2].hex.chr }
  text(plain)
end
