// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {IModelTokenRegistry} from "../src/IModelTokenRegistry.sol";

/// @dev Records that the registry takes, out of whatever the fuzzer made up.
library Records {
    bytes private constant SYMBOL_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-";

    /// @dev The record with its texts cut or filled to fit, and reaching its baseline.
    function fit(IModelTokenRegistry.ModelRecord memory record)
        internal
        pure
        returns (IModelTokenRegistry.ModelRecord memory)
    {
        record.symbol = symbol(record.symbol);
        record.modelName = text(record.modelName, 256);
        record.modelVersion = text(record.modelVersion, 256);
        record.modelId = text(record.modelId, 1024);
        record.metricName = text(record.metricName, 256);
        if (bytes(record.runId).length > 256) record.runId = text(record.runId, 256);
        bool swap = record.lowerIsBetter ? record.current > record.baseline : record.current < record.baseline;
        if (swap) (record.baseline, record.current) = (record.current, record.baseline);
        return record;
    }

    function usual(string memory symbol_, string memory modelName, string memory modelVersion)
        internal
        pure
        returns (IModelTokenRegistry.ModelRecord memory record)
    {
        record.symbol = symbol_;
        record.modelName = modelName;
        record.modelVersion = modelVersion;
        record.modelId = string.concat(modelName, "/", modelVersion, "/", symbol_);
        record.runId = "0123456789abcdef0123456789abcdef";
        record.metricName = "accuracy";
        record.baseline = 0.82e18;
        record.current = 0.875e18;
        record.contributor = address(0x4242);
    }

    function repeated(bytes1 character, uint256 count) internal pure returns (string memory) {
        bytes memory characters = new bytes(count);
        for (uint256 i = 0; i < count; ++i) characters[i] = character;
        return string(characters);
    }

    function symbol(string memory from) internal pure returns (string memory) {
        bytes memory characters = bytes(text(from, 64));
        for (uint256 i = 0; i < characters.length; ++i) {
            characters[i] = SYMBOL_CHARACTERS[uint8(characters[i]) % SYMBOL_CHARACTERS.length];
        }
        return string(characters);
    }

    function text(string memory from, uint256 maxBytes) internal pure returns (string memory) {
        uint256 length = bytes(from).length;
        if (length == 0) return "x";
        if (length <= maxBytes) return from;
        bytes memory cut = new bytes(maxBytes);
        for (uint256 i = 0; i < maxBytes; ++i) cut[i] = bytes(from)[i];
        return string(cut);
    }

    function versionId(IModelTokenRegistry.ModelRecord memory record)
        internal
        pure
        returns (IModelTokenRegistry.VersionId memory)
    {
        return IModelTokenRegistry.VersionId(record.symbol, record.modelName, record.modelVersion);
    }

    function lower(string memory from) internal pure returns (string memory) {
        bytes memory characters = bytes.concat(bytes(from));
        for (uint256 i = 0; i < characters.length; ++i) {
            if (characters[i] >= "A" && characters[i] <= "Z") characters[i] |= 0x20;
        }
        return string(characters);
    }

    /// @dev With the case of every letter turned.
    function turned(string memory from) internal pure returns (string memory) {
        bytes memory characters = bytes(from);
        bytes memory result = new bytes(characters.length);
        for (uint256 i = 0; i < characters.length; ++i) {
            uint8 character = uint8(characters[i]);
            bool isLetter = (character | 0x20) >= 0x61 && (character | 0x20) <= 0x7a;
            result[i] = isLetter ? bytes1(character ^ 0x20) : characters[i];
        }
        return string(result);
    }
}
