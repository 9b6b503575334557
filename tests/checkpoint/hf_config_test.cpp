#include "checkpoint/hf_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace tessera {
namespace {

constexpr const char* old_dialect = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
  "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
  "rms_norm_eps": 1, "rope_theta": 500000, "tie_word_embeddings": true, "bos_token_id": 1,
  "eos_token_id": [2, 3], "my_own_key": {"kept": [1.0]}, "auto_map": {"AutoModel": "evil.py"},
  "rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                   "original_max_position_embeddings": 32}})";

ReleaseConfig read(const std::string& text) {
  return read_release_config(parse_json(text, "config.json"), "config.json");
}

// Reads the old dialect with one key changed; an empty value removes it.
ReleaseConfig with(const std::string& key, const std::string& value) {
  Json raw = parse_json(old_dialect, "config.json");
  if (value.empty())
    raw.erase(key);
  else
    raw[key] = parse_json(value, "value");
  return read_release_config(raw, "config.json");
}

std::string defect(const std::string& key, const std::string& value) {
  try {
    with(key, value);
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).rfind("config.json", 0), 0U) << e.what();
    return e.what();
  }
  return "accepted";
}

TEST(HfConfig, ReadsTheOldDialectAndWritesTheNew) {
  const ReleaseConfig config = read(old_dialect);
  EXPECT_EQ(config.dtype, DType::bf16);
  EXPECT_TRUE(config.spec.tied);
  const std::string text = write_release_config(*config.config, DType::bf16).dump();
  EXPECT_EQ(text.find("rope_scaling"), std::string::npos);
  EXPECT_EQ(text.find("torch_dtype"), std::string::npos);
  EXPECT_EQ(text.find("evil"), std::string::npos);
  for (const char* part :
       {R"("dtype":"bfloat16")", R"("rope_type":"llama3")", R"("rope_theta":500000.0)", R"("factor":8.0)",
        R"("original_max_position_embeddings":32)", R"("rms_norm_eps":1.0)", R"("head_dim":16)",
        R"("my_own_key":{"kept":[1.0]})", R"("eos_token_id":[2,3])", R"("transformers_version":"5.23.0")",
        R"("architectures":["LlamaForCausalLM"])", R"("mlp_bias":false)"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  // What was written reads as the same, and is written the same again.
  const ReleaseConfig again = read(text);
  EXPECT_TRUE(model_differences(config, again).empty());
  EXPECT_EQ(write_release_config(*again.config, DType::bf16).dump(), text);
}

// What is computed, not how it is written.
TEST(HfConfig, DifferencesAreThoseOfTheComputation) {
  const Family& family = find_family("qwen3");
  const auto differences = [&](const Json& ours, const Json& theirs) {
    return model_differences(make_release_config(family, ours, "a"),
                             make_release_config(family, theirs, "b"));
  };
  using Names = std::vector<std::string>;
  const Json none = Json::object();
  EXPECT_EQ(differences(none, none), Names());
  EXPECT_EQ(differences(none, {{"sliding_window", 7}, {"max_position_embeddings", 64}, {"bos_token_id", 3}}),
            Names());
  EXPECT_EQ(differences(none, {{"rope_parameters", {{"rope_theta", 10000}, {"rope_type", "default"}}}}),
            Names());
  EXPECT_EQ(differences(none, {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}}}),
            Names{"rope_parameters"});
  EXPECT_EQ(differences(none, {{"rms_norm_eps", 1e-5}, {"attention_bias", true}}),
            (Names{"rms_norm_eps", "attention_bias"}));
  EXPECT_EQ(differences({{"use_sliding_window", true}, {"max_window_layers", 0}},
                        {{"use_sliding_window", true}, {"max_window_layers", 0}, {"sliding_window", 7}}),
            Names{"sliding_window"});
}

TEST(HfConfig, ValuesInsideRopeParametersWin) {
  const ReleaseConfig config = with("rope_parameters", R"({"rope_type":"default","rope_theta":7.5})");
  EXPECT_EQ(config.config->at("rope_parameters").at("rope_theta"), 7.5);
}

TEST(HfConfig, FloatsStayFloats) {
  EXPECT_NE(write_release_config(*with("rms_norm_eps", "1e-6").config, DType::f32).dump().find("1e-06"),
            std::string::npos);
}

struct Case {
  const char *key, *value, *part;
};

TEST(HfConfig, RefusesWhatCannotBe) {
  const Case cases[] = {
      {"num_attention_heads", "3", "multiple"},
      {"num_key_value_heads", "3", "multiple"},
      {"num_key_value_heads", "8", "multiple"},
      {"hidden_size", "0", "hidden_size"},
      {"hidden_size", "-64", "hidden_size"},
      {"vocab_size", "9223372036854775808", "vocab_size"},
      {"num_hidden_layers", "1000000000", "num_hidden_layers"},
      {"num_hidden_layers", "\"2\"", "num_hidden_layers"},
      {"hidden_size", "64.0", "hidden_size"},
      {"intermediate_size", "null", "intermediate_size"},
      {"tie_word_embeddings", "1", "tie_word_embeddings"},
      {"tie_word_embeddings", "null", "null"},
      {"rms_norm_eps", "0", "rms_norm_eps"},
      {"rms_norm_eps", "\"1e-6\"", "rms_norm_eps"},
      {"rope_scaling", R"({"type":"mystery","factor":2})", "mystery"},
      {"rope_scaling", R"({"type":"llama3","factor":8})", "low_freq_factor"},
      {"rope_scaling", R"({"type":"default","beta":8})", "beta"},
      {"rope_scaling", "[1]", "object"},
      {"rope_parameters", R"({"rope_theta":0})", "rope_theta"},
      {"rope_parameters", R"({"rope_theta":"big"})", "rope_theta"},
      {"rope_parameters", R"({"rope_type":7})", "rope_type"},
      {"partial_rotary_factor", "0.5", "partial_rotary_factor"},
      {"model_type", "\"lama\"", "did you mean 'llama'"},
      {"model_type", "", "model_type"},
      {"architectures", R"(["LlamaForSequenceClassification"])", "architectures"},
      {"eos_token_id", "256", "outside the vocabulary"},
      {"eos_token_id", "[1, -1]", "outside the vocabulary"},
      {"bos_token_id", "1.5", "outside the vocabulary"},
      {"hidden_act", "\"gelu\"", "hidden_act"},
      {"head_dim", "15", "odd"},
      {"torch_dtype", "\"int8\"", "torch_dtype"},
      {"vocab_size", "0", "vocab_size"},
      {"vocab_size", "null", "vocab_size"},
      {"num_attention_heads", "0", "num_attention_heads"},
      {"num_hidden_layers", "0", "num_hidden_layers"},
      {"num_hidden_layers", "-1", "num_hidden_layers"},
      {"head_dim", "0", "head_dim"},
      {"max_position_embeddings", "\"512\"", "max_position_embeddings"},
      {"hidden_act", "1", "hidden_act"},
      {"architectures", "\"LlamaForCausalLM\"", "architectures"},
      {"architectures", "[]", "architectures"},
      {"attention_bias", "\"no\"", "attention_bias"},
      {"attention_dropout", "0.1", "attention_dropout"},
      {"initializer_range", "0", "initializer_range"},
      {"rope_scaling", R"({"type":"llama3","factor":0,"low_freq_factor":1,"high_freq_factor":4,
                           "original_max_position_embeddings":32})",
       "factor"},
      {"eos_token_id", "\"</s>\"", "eos_token_id"},
      {"quantization_config", R"({"quant_method":"fp8"})", "quantised"},
  };
  for (const Case& c : cases)
    EXPECT_PRED_FORMAT2(testing::IsSubstring, c.part, defect(c.key, c.value)) << c.key << " " << c.value;
  EXPECT_THROW(read("[]"), Error);
  EXPECT_THROW(read("{}"), Error);
  EXPECT_THROW(read(R"({"model_type":"llama","rope_theta":NaN})"), Error);
  EXPECT_THROW(read(R"({"model_type":"llama","model_type":"llama"})"), Error);
  EXPECT_THROW(read(R"({"model_type":"llama","rms_norm_eps":1e999})"), Error);
  EXPECT_THROW(read(R"({"model_type":"qwen3","layer_types":["full_attention"]})"), Error);
}

TEST(HfConfig, AcceptsWhatReleasesOmitOrNull) {
  EXPECT_EQ(defect("rope_scaling", "null"), "accepted");
  EXPECT_EQ(defect("rope_theta", ""), "accepted");
  EXPECT_EQ(defect("eos_token_id", "null"), "accepted");
  EXPECT_EQ(defect("num_key_value_heads", ""), "accepted");
  EXPECT_EQ(defect("architectures", ""), "accepted");
  EXPECT_EQ(defect("head_dim", "null"), "accepted");
}

}  // namespace
}  // namespace tessera
