// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {LibBit} from "solady/src/utils/LibBit.sol";
import {LibBytes} from "solady/src/utils/LibBytes.sol";
import {IModelTokenRegistry} from "./IModelTokenRegistry.sol";

/// @title The code of a model token
/// @notice A token's code is an EIP-1167 proxy to the one implementation, followed by what never changes about the
/// token: its symbol and its first version. Code costs 200 gas a byte where a storage slot costs 22100, and reading it
/// costs no slot at all.
///
/// After the 45 bytes of the proxy, integers big-endian:
///
///     traits           1 byte: LOWER_IS_BETTER, HAS_CONTRIBUTOR, and the symbol's length less one
///     lengths          1 byte each, less one: model name, model version, metric name; none of them is empty
///     number format    1 byte: a metric's width in bytes, less one, and how many decimal zeros it lacks; 4 bits each
///     symbol, model name, model version, metric name
///     baseline         as wide as the number format says
///     current          as baseline
///     contributor      20 bytes if HAS_CONTRIBUTOR, else absent
///     model id         the rest; absent if it is <model name>/<model version>/<symbol>
library TokenCode {
    uint256 internal constant PROXY_BYTES = 45;
    uint256 private constant HEADER_BYTES = 5;

    uint256 private constant LOWER_IS_BETTER = 0x80;
    uint256 private constant HAS_CONTRIBUTOR = 0x40;
    uint256 private constant SYMBOL_LENGTH = 0x3f;

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
        (uint256 numberFormat, bytes memory metrics) = _packMetrics(record.baseline, record.current);
        bytes memory usualModelId = _usualModelId(record.modelName, record.modelVersion, record.symbol);
        bool isUsual = keccak256(usualModelId) == keccak256(bytes(record.modelId));
        return abi.encodePacked(
            hex"363d3d373d3d3d363d73",
            implementation,
            hex"5af43d82803e903d91602b57fd5bf3",
            _header(record, numberFormat),
            record.symbol,
            record.modelName,
            record.modelVersion,
            record.metricName,
            metrics,
            record.contributor == address(0) ? bytes("") : abi.encodePacked(record.contributor),
            isUsual ? "" : record.modelId
        );
    }

    /// @notice Whether the first version, carried by the token's `code`, is this one.
    function isFirstVersion(bytes memory code, string memory modelName, string memory modelVersion)
        internal
        pure
        returns (bool)
    {
        bytes memory wanted = abi.encodePacked(modelName, modelVersion);
        unchecked {
            Reader memory reader = Reader({code: code, position: PROXY_BYTES});
            uint256 symbolBytes = (_readUint(reader, 1) & SYMBOL_LENGTH) + 1;
            if (_readUint(reader, 1) + 1 != bytes(modelName).length) return false;
            if (_readUint(reader, 1) + 1 != bytes(modelVersion).length) return false;
            uint256 start = PROXY_BYTES + HEADER_BYTES + symbolBytes;
            return keccak256(LibBytes.slice(code, start, start + wanted.length)) == keccak256(wanted);
        }
    }

    /// @notice What the token's `code` carries. Of code that is not a token's, anything; but it does not revert.
    function decode(bytes memory code) internal pure returns (Data memory data) {
        Reader memory reader = Reader({code: code, position: PROXY_BYTES});
        uint256 traits = _readUint(reader, 1);
        uint256 modelNameBytes = _readUint(reader, 1) + 1;
        uint256 modelVersionBytes = _readUint(reader, 1) + 1;
        uint256 metricNameBytes = _readUint(reader, 1) + 1;
        uint256 numberFormat = _readUint(reader, 1);

        data.lowerIsBetter = traits & LOWER_IS_BETTER != 0;
        data.symbol = _readText(reader, (traits & SYMBOL_LENGTH) + 1);
        data.modelName = _readText(reader, modelNameBytes);
        data.modelVersion = _readText(reader, modelVersionBytes);
        data.metricName = _readText(reader, metricNameBytes);
        data.baseline = _readMetric(reader, numberFormat);
        data.current = _readMetric(reader, numberFormat);
        if (traits & HAS_CONTRIBUTOR != 0) data.contributor = address(uint160(_readUint(reader, 20)));
        unchecked {
            data.modelId = _readText(reader, reader.code.length - reader.position);
        }
        if (bytes(data.modelId).length == 0) {
            data.modelId = string(_usualModelId(data.modelName, data.modelVersion, data.symbol));
        }
    }

    function _header(IModelTokenRegistry.ModelRecord memory record, uint256 numberFormat)
        private
        pure
        returns (bytes5)
    {
        unchecked {
            // No symbol has more than 64 bytes, and no other text more than 256.
            uint256 header = bytes(record.symbol).length - 1;
            if (record.lowerIsBetter) header |= LOWER_IS_BETTER;
            if (record.contributor != address(0)) header |= HAS_CONTRIBUTOR;
            header = header << 8 | (bytes(record.modelName).length - 1);
            header = header << 8 | (bytes(record.modelVersion).length - 1);
            header = header << 8 | (bytes(record.metricName).length - 1);
            return bytes5(uint40(header << 8 | numberFormat));
        }
    }

    /// @dev Both metrics, each in as few bytes as hold either. Decimals that neither uses, beyond the third, the sixth
    /// or the fifteenth, are left out: 0.82 and 0.875 take two bytes each.
    function _packMetrics(int256 baseline, int256 current)
        private
        pure
        returns (uint256 numberFormat, bytes memory packed)
    {
        unchecked {
            uint256 zeros = 0;
            if (baseline % 1e12 == 0 && current % 1e12 == 0) {
                (baseline, current, zeros) = (baseline / 1e12, current / 1e12, 12);
            }
            if (baseline % 1e3 == 0 && current % 1e3 == 0) {
                (baseline, current, zeros) = (baseline / 1e3, current / 1e3, zeros + 3);
            }
            // Of either number the bits that differ from its sign, and one more for the sign.
            uint256 bits = uint256((baseline ^ baseline >> 255) | (current ^ current >> 255)) << 1 | 1;
            uint256 width = LibBit.fls(bits) / 8 + 1;
            uint256 unusedBits = 256 - 8 * width;
            bytes32 both = bytes32(uint256(baseline) << unusedBits | uint256(current) << unusedBits >> 8 * width);
            return ((width - 1) << 4 | zeros, LibBytes.truncate(abi.encodePacked(both), 2 * width));
        }
    }

    function _usualModelId(string memory modelName, string memory modelVersion, string memory symbol)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(modelName, "/", modelVersion, "/", symbol);
    }

    function _readUint(Reader memory reader, uint256 width) private pure returns (uint256 value) {
        unchecked {
            value = uint256(LibBytes.load(reader.code, reader.position)) >> (256 - 8 * width);
            reader.position += width;
        }
    }

    function _readMetric(Reader memory reader, uint256 numberFormat) private pure returns (int128 value) {
        unchecked {
            uint256 width = (numberFormat >> 4) + 1;
            int256 mantissa = int256(uint256(LibBytes.load(reader.code, reader.position))) >> (256 - 8 * width);
            reader.position += width;
            return int128(mantissa * int256(10 ** (numberFormat & 0x0f)));
        }
    }

    function _readText(Reader memory reader, uint256 length) private pure returns (string memory text) {
        unchecked {
            text = string(LibBytes.slice(reader.code, reader.position, reader.position + length));
            reader.position += length;
        }
    }
}
