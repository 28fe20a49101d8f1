// A whole subscriber in C++17 with cppzmq and msgpack-c. On Debian:
//   apt-get install g++ cmake libzmq3-dev cppzmq-dev libmsgpack-cxx-dev
//   cmake -B build && cmake --build build && build/subscriber [ENDPOINT] [CAMERA] [COUNT]
// Prints what is seen, and says so when nothing can be known. Acts on the newest message only.
// Exit codes: 0 after COUNT messages, 1 when nothing comes for 5 s, 2 for bad usage.

#include <chrono>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <msgpack.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <zmq.hpp>

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kFresh = std::chrono::milliseconds(500);
constexpr auto kGiveUp = std::chrono::seconds(5);

// A value by its key; nothing where it is missing or nil. Keys that are not asked for are ignored.
const msgpack::object* find(const msgpack::object& map, const std::string& key) {
  if (map.type != msgpack::type::MAP) return nullptr;
  for (uint32_t i = 0; i < map.via.map.size; ++i) {
    const auto& entry = map.via.map.ptr[i];
    if (entry.key.type == msgpack::type::STR && entry.key.as<std::string>() == key)
      return entry.val.type == msgpack::type::NIL ? nullptr : &entry.val;
  }
  return nullptr;
}

template <typename T>
std::optional<T> get(const msgpack::object& map, const std::string& key) {
  const auto* value = find(map, key);
  return value ? std::optional<T>(value->as<T>()) : std::nullopt;
}

// Whose clocks are read here: the boot, and where it is not the first one the time namespace.
std::string boot_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  std::error_code none;
  const auto space = std::filesystem::read_symlink("/proc/self/ns/time", none).string();
  return none || space == "time:[4026531834]" ? id : id + ' ' + space;
}

int64_t now_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// How old the frame is at most: the picture of a stream can be older than its stamp. Exact on the
// node's own computer, whatever its wall clock does and however long it was suspended; elsewhere as
// good as the synchronisation of the clocks.
double age_ms(const msgpack::object& message) {
  static const std::string here = boot_id();
  const auto boot = get<int64_t>(message, "stamp_boot_ns");
  const auto uncertain = get<int64_t>(message, "stamp_uncertainty_ns").value_or(0);
  if (boot && get<std::string>(message, "boot_id") == here)
    return static_cast<double>(now_ns(CLOCK_BOOTTIME) - *boot + uncertain) / 1e6;
  const auto stamp = get<int64_t>(message, "stamp_ns").value_or(0);
  return static_cast<double>(now_ns(CLOCK_REALTIME) - stamp + uncertain) / 1e6;
}

void tell_things(std::ostream& out, const msgpack::object* things, uint32_t most, bool& any) {
  if (!things || things->type != msgpack::type::ARRAY) return;
  for (uint32_t i = 0; i < std::min(things->via.array.size, most); ++i) {
    const auto& one = things->via.array.ptr[i];
    out << (any ? ", " : "") << get<std::string>(one, "name").value_or("?") << ' '
        << std::setprecision(2) << get<double>(one, "score").value_or(0);
    if (const auto* box = find(one, "box"))
      out << std::setprecision(0) << " at " << get<double>(*box, "cx").value_or(0) << ','
          << get<double>(*box, "cy").value_or(0) << ' ' << get<double>(*box, "w").value_or(0) << 'x'
          << get<double>(*box, "h").value_or(0);
    any = true;
  }
}

// Messages that were sent and did not arrive: holes in the numbers of a session.
int64_t lost(const std::string& camera, const msgpack::object& message) {
  struct Last { std::string session; int64_t seq; };
  static std::map<std::string, Last> newest;
  const Last now{get<std::string>(message, "session").value_or(""), get<int64_t>(message, "seq").value_or(0)};
  const auto before = newest.find(camera);
  const bool same = before != newest.end() && before->second.session == now.session;
  const int64_t gap = same ? std::max<int64_t>(0, now.seq - before->second.seq - 1) : 0;
  newest[camera] = now;
  return gap;
}

std::string tell(const msgpack::object& message) {
  const auto camera = get<std::string>(message, "camera").value_or("?");
  const auto status = get<std::string>(message, "status").value_or("?");
  std::ostringstream out;
  out << std::fixed << camera;
  if (status != "ok") {
    out << (status == "paused" ? "  not looking" : "  cannot see: " + status);  // not "nothing seen"
  } else {
    bool any = false;
    out << "  ok  " << std::setprecision(1) << age_ms(message) << " ms  ";
    tell_things(out, find(message, "detections"), UINT32_MAX, any);
    tell_things(out, find(message, "labels"), 3, any);
    if (!any) out << "nothing seen";
  }
  if (const auto gap = lost(camera, message)) out << "  (" << gap << " lost)";
  return out.str();
}

int run(const std::string& endpoint, const std::string& camera, int count) {
  zmq::context_t context;
  zmq::socket_t socket(context, zmq::socket_type::sub);
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::subscribe, camera.empty() ? "labels/" : "labels/" + camera + "/");
  socket.connect(endpoint);
  auto heard = Clock::now();
  for (int told = 0; count == 0 || told < count;) {
    zmq::pollitem_t item{socket.handle(), 0, ZMQ_POLLIN, 0};
    zmq::poll(&item, 1, kFresh);
    std::map<std::string, msgpack::object_handle> newest;  // by camera: older ones are read away
    for (zmq::message_t topic; socket.recv(topic, zmq::recv_flags::dontwait);) {
      zmq::message_t body;
      if (!topic.more() || !socket.recv(body)) continue;
      newest[topic.to_string()] = msgpack::unpack(body.data<char>(), body.size());
    }
    if (!newest.empty()) heard = Clock::now();
    else std::cout << "stop: no fresh message" << std::endl;
    for (const auto& [topic, message] : newest) std::cout << tell(message.get()) << std::endl, ++told;
    if (count && Clock::now() - heard > kGiveUp) {
      std::cerr << endpoint << ": no message for 5 s; is the node running, on this endpoint?\n";
      return 1;
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  if (argc > 3 && (!(std::istringstream(argv[3]) >> count) || count < 0)) {
    std::cerr << "COUNT " << argv[3] << " is no number of messages\n";
    return 2;
  }
  try {
    return run(argc > 1 ? argv[1] : "tcp://127.0.0.1:5570", argc > 2 ? argv[2] : "", count);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "; usage: subscriber [ENDPOINT] [CAMERA] [COUNT]\n";
    return 2;
  }
}
