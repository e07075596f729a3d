# Variables are UTF-8: this Ruby knows no locale that says so.

module Wws
  # Before ENV's own methods.
  module Env
    def [](name) = Env.text(super)

    def fetch(name, *default) = Env.text(super)

    def values = super.map { |value| Env.text(value) }

    def values_at(*names) = names.map { |name| self[name] }

    def to_h(&block)
      all = super()
      all.transform_values! { |value| Env.text(value) }
      block ? all.to_h(&block) : all
    end

    def to_hash = to_h

    def inspect = to_h.inspect

    def each(&block)
      return to_enum(:each) { size } unless block

      to_h.each(&block)
      self
    end

    def each_pair(&block) = each(&block)

    def self.text(value)
      return value unless value.is_a?(String) && value.encoding == Encoding::BINARY

      text = value.dup.force_encoding(Encoding::UTF_8)
      text.valid_encoding? ? text.freeze : value
    end
  end
  ENV.singleton_class.prepend(Env)
end
