# The Ruby program of the article "Running Wasm Workers Server in Docker Desktop" (Wasm Labs, October 2023). The article's had no outgoing
# requests and no key/value store; this one asks and counts like the others.
require 'json'

def allowed_attributes
  [:first_name, :last_name, :username, :email]
end

def worker(req)
  user = JSON.parse(fetch("https://random-data-api.com/api/v2/users").body, symbolize_names: true)

  user_response = Hash.new
  allowed_attributes.each do |attribute|
    user_response[attribute] = user[attribute]
  end

  generated_users = (Cache.get("generated_users_counter") || "0").to_i + 1
  Cache.set("generated_users_counter", generated_users.to_s)

  res = Response.new({
    "user": user_response,
    "some_file_contents": File.read("/tmp/file.txt"),
    "generated_users": generated_users
  }.to_json)
  res.headers["x-generated-by"] = "wasm-workers-server"
  res
end
