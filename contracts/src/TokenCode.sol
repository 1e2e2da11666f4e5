// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {LibBytes} from "solady/src/utils/LibBytes.sol";
import {IModelTokenRegistry} from "./IModelTokenRegistry.sol";

/// @title The code of a model token
/// @notice A token's code is an EIP-1167 proxy to the one implementation, followed by what never changes about the
/// token: its symbol and its first version. Code costs 200 gas a byte where a storage slot costs 22100, and reading it
/// costs no slot at all.
///
/// After the 45 bytes of the proxy, integers big-endian:
///
///     flags            1 byte: LOWER_IS_BETTER, HAS_CONTRIBUTOR, WIDE
///     lengths          1 byte each, less one: symbol, model name, model version, metric name; none of them is empty
///     baseline         8 bytes, or 16 if WIDE
///     current          as baseline
///     contributor      20 bytes if HAS_CONTRIBUTOR, else absent
///     symbol, model name, model version, metric name
///     model id         the rest; absent if it is <model name>/<model version>/<symbol>
library TokenCode {
    uint256 internal constant PROXY_BYTES = 45;

    uint8 private constant LOWER_IS_BETTER = 1;
    uint8 private constant HAS_CONTRIBUTOR = 2;
    uint8 private constant WIDE = 4;

    /// @notice What a token's code carries.
    struct Data {
        string symbol;
        string modelName;
        string modelVersion;
        string modelId;
        string metricName;
        int128 baseline;
        int128 current;
        bool lowerIsBetter;
        address contributor;
    }

    /// @dev Where in `code` to read next.
    struct Reader {
        bytes code;
        uint256 position;
    }

    /// @notice The code of the token whose first version is `record`, which has been checked.
    function encode(address implementation, IModelTokenRegistry.ModelRecord memory record)
        internal
        pure
        returns (bytes memory)
    {
        bytes memory usualModelId = _usualModelId(record.modelName, record.modelVersion, record.symbol);
        bool isUsual = keccak256(usualModelId) == keccak256(bytes(record.modelId));
        return abi.encodePacked(
            hex"363d3d373d3d3d363d73",
            implementation,
            hex"5af43d82803e903d91602b57fd5bf3",
            _header(record),
            _numbers(record),
            record.symbol,
            record.modelName,
            record.modelVersion,
            record.metricName,
            isUsual ? "" : record.modelId
        );
    }

    /// @notice What the code of the token carries. Of code that is not a token's, anything; but it does not revert.
    function decode(address token) internal view returns (Data memory data) {
        Reader memory reader = Reader({code: token.code, position: PROXY_BYTES});
        uint256 flags = _readUint(reader, 1);
        uint256 symbolBytes = _readUint(reader, 1) + 1;
        uint256 modelNameBytes = _readUint(reader, 1) + 1;
        uint256 modelVersionBytes = _readUint(reader, 1) + 1;
        uint256 metricNameBytes = _readUint(reader, 1) + 1;
        uint256 numberBytes = flags & WIDE != 0 ? 16 : 8;

        data.lowerIsBetter = flags & LOWER_IS_BETTER != 0;
        data.baseline = _readInt(reader, numberBytes);
        data.current = _readInt(reader, numberBytes);
        if (flags & HAS_CONTRIBUTOR != 0) data.contributor = address(uint160(_readUint(reader, 20)));
        data.symbol = _readText(reader, symbolBytes);
        data.modelName = _readText(reader, modelNameBytes);
        data.modelVersion = _readText(reader, modelVersionBytes);
        data.metricName = _readText(reader, metricNameBytes);
        unchecked {
            data.modelId = _readText(reader, reader.code.length - reader.position);
        }
        if (bytes(data.modelId).length == 0) {
            data.modelId = string(_usualModelId(data.modelName, data.modelVersion, data.symbol));
        }
    }

    function _header(IModelTokenRegistry.ModelRecord memory record) private pure returns (bytes5) {
        uint256 flags = (record.lowerIsBetter ? LOWER_IS_BETTER : 0)
            | (record.contributor != address(0) ? HAS_CONTRIBUTOR : 0) | (_isWide(record) ? WIDE : 0);
        unchecked {
            // None of the lengths is zero or above 256.
            uint256 header = flags;
            header = header << 8 | (bytes(record.symbol).length - 1);
            header = header << 8 | (bytes(record.modelName).length - 1);
            header = header << 8 | (bytes(record.modelVersion).length - 1);
            header = header << 8 | (bytes(record.metricName).length - 1);
            return bytes5(uint40(header));
        }
    }

    /// @dev The metrics and the contributor.
    function _numbers(IModelTokenRegistry.ModelRecord memory record) private pure returns (bytes memory numbers) {
        numbers = _isWide(record)
            ? abi.encodePacked(record.baseline, record.current)
            : abi.encodePacked(int64(record.baseline), int64(record.current));
        if (record.contributor != address(0)) numbers = abi.encodePacked(numbers, record.contributor);
    }

    function _usualModelId(string memory modelName, string memory modelVersion, string memory symbol)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(modelName, "/", modelVersion, "/", symbol);
    }

    /// @dev Values up to 9.2, which most metrics are, need eight bytes.
    function _isWide(IModelTokenRegistry.ModelRecord memory record) private pure returns (bool) {
        return record.baseline != int64(record.baseline) || record.current != int64(record.current);
    }

    function _readUint(Reader memory reader, uint256 width) private pure returns (uint256 value) {
        unchecked {
            value = uint256(LibBytes.load(reader.code, reader.position)) >> (256 - 8 * width);
            reader.position += width;
        }
    }

    function _readInt(Reader memory reader, uint256 width) private pure returns (int128 value) {
        unchecked {
            value = int128(int256(uint256(LibBytes.load(reader.code, reader.position))) >> (256 - 8 * width));
            reader.position += width;
        }
    }

    function _readText(Reader memory reader, uint256 length) private pure returns (string memory text) {
        unchecked {
            text = string(LibBytes.slice(reader.code, reader.position, reader.position + length));
            reader.position += length;
        }
    }
}
